"""All uses of what PyTorch does not promise.

Each function states its reason and the versions of PyTorch on which it was tested.
`tests/training/test_torch_internals.py` fails if PyTorch changes the behavior.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

__all__ = ["TreeSpec", "record", "to_function", "tree_flatten", "tree_unflatten"]


def record(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Return the operations of a function of tensors as a module, without running them.

    Tensors that are not arguments are constants by reference: without `_allow_non_fake_inputs`,
    they would be errors, even the thresholds of a metric. PyTorch 2.13.
    """
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)


def to_function(module: Any, constants: dict[str, Any]) -> Callable[..., Any]:
    """Return a function that runs recorded operations, and holds nothing but their constants.

    The function of an operation, `_op`, takes a third less time than the object around it, by which
    a module calls it. So the code of the module is rewritten. PyTorch 2.13.
    """
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    code = module.graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)

    def name_of(match: re.Match[str]) -> str:
        name = match[1].replace(".", "_")
        names[name] = attrgetter(match[1])(torch.ops)._op
        return name

    exec(re.sub(r"torch\.ops\.([\w.]+)", name_of, code.src), names)
    return partial(names["forward"], SimpleNamespace(**constants))
