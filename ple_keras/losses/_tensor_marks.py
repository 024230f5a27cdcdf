"""Marks that record the object that made a tensor.

JAX tensors accept no attributes, and PyTorch tensors are pickled with theirs. The marks are
therefore in a table, by the identity of the tensors, as long as the tensors exist.
"""

import weakref
from typing import Any

import keras

from ple_keras._typing import Tensor

_makers: dict[int, tuple[Any, Any]] = {}  # by id: weak references to the tensor and its maker


def mark(tensor: Tensor, maker: object) -> None:
    """Record the object that made a tensor. Copies of the tensor have no mark."""
    if isinstance(tensor, keras.KerasTensor) or _is_traced_by_torch():
        return
    key = id(tensor)
    reference = weakref.ref(tensor, lambda _: _makers.pop(key, None))
    _makers[key] = reference, weakref.ref(maker)


def maker_of(tensor: Tensor) -> Any:
    """Return the object that made a tensor; None if the tensor has no mark."""
    if _is_traced_by_torch():
        return None
    reference, maker = _makers.get(id(tensor), (None, None))
    return maker() if maker and reference and reference() is tensor else None


def _is_traced_by_torch() -> bool:
    """Return whether torch.compile is tracing, where tensors have no identity."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return bool(torch.compiler.is_dynamo_compiling())
