"""Which object made a tensor.

Tensors of JAX take no attributes, and those of PyTorch are pickled with theirs: the marks lie in a
table beside them, by identity, for as long as the tensors live.
"""

import weakref
from typing import Any

import keras

from ple_keras._typing import Tensor

_makers: dict[int, tuple[Any, Any]] = {}  # by id: weak references to the tensor and its maker


def mark(tensor: Tensor, maker: object) -> None:
    """Remember which object made a tensor; no copy of the tensor has the mark."""
    if isinstance(tensor, keras.KerasTensor) or _is_compiled_by_torch():
        return
    key = id(tensor)
    reference = weakref.ref(tensor, lambda _: _makers.pop(key, None))
    _makers[key] = reference, weakref.ref(maker)


def maker_of(tensor: Tensor) -> Any:
    """The object that made a tensor; None if there is no mark."""
    if _is_compiled_by_torch():
        return None
    reference, maker = _makers.get(id(tensor), (None, None))
    return maker() if maker and reference and reference() is tensor else None


def _is_compiled_by_torch() -> bool:
    """Whether torch.compile reads along, which knows no identities."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return bool(torch.compiler.is_dynamo_compiling())
