"""The graph of a step on PyTorch: how it is recorded, and how it runs."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import torch
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode

from ple_keras._typing import Tensor
from ple_keras.models.step_state import StepState, is_equal
from ple_keras.models.torch_internals import record

READS = (torch.Tensor.tolist, torch.equal, torch.allclose)  # PyTorch refuses other ones


class UntraceableError(Exception):
    """The reason why a step can't be traced."""


class StepScope(keras.StatelessScope):
    """The variables of a step, which are updated in place, as in an eager step."""

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        variable, value = update
        current = self.get_current_value(variable)
        if current is None:
            raise UntraceableError(f"no layer or metric tracks the variable {variable.path!r}")
        with torch.no_grad():
            current.copy_(value)


class Recorder(TorchFunctionMode):
    """The backward pass of a step, in which rows of tables have gradients of their own.

    Attributes:
        tables: The optimizers that get gradients of rows, each with its variables. They do not
            belong to the graph, since the number of rows depends on the ids.
        gradients: The gradients of these variables. For a table, they are the ids and the gradient
            of the rows of each lookup.
    """

    def __init__(self, weights: list[Tensor]) -> None:
        self._weights = weights
        self._lookups: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by the `id` of the table
        self.tables: list[tuple[Any, list[keras.Variable]]] = []
        self.gradients: list[Any] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in READS:
            raise UntraceableError("a step reads the values of a tensor")
        if function is embedding and kwargs["sparse"] and torch.is_grad_enabled():
            ids, table = args
            rows = embedding(ids, table.detach()).requires_grad_()
            self._lookups.setdefault(id(table), []).append((ids, rows))
            return rows
        if function is torch.Tensor.backward:
            rows = [rows for lookups in self._lookups.values() for _, rows in lookups]
            weights = [*self._weights, *rows]
            gradients = torch.autograd.grad(args[0], weights, allow_unused=True)
            for weight, gradient in zip(weights, gradients):
                weight.grad = gradient
            return None
        return function(*args, **kwargs)

    def apply(
        self, optimizer: Any, apply: Any, gradients: list[Any], variables: list[keras.Variable]
    ) -> None:
        """Apply gradients, or record them if they are gradients of rows."""
        found = [self._lookups.get(id(variable.value), []) for variable in variables]
        if not any(found):
            apply(gradients, variables)
            return
        for i, (lookups, variable) in enumerate(zip(found, variables)):
            if lookups and gradients[i] is not None:
                raise UntraceableError(f"a step reads rows and the whole of {variable.path!r}")
            if lookups:
                gradients[i] = [
                    (ids.reshape(1, -1).long(), rows.grad.flatten(0, -2).to(variable.value.dtype))
                    for ids, rows in lookups
                    if rows.grad is not None
                ]
        self.tables.append((optimizer, variables))
        self.gradients.append(gradients)


def gradient_of(found: Any, variable: keras.Variable) -> Tensor | None:
    """Return the gradient of a variable, which is sparse for rows."""
    if not isinstance(found, list):
        return found
    shape = tuple(variable.shape)
    parts = [torch.sparse_coo_tensor(*part, shape, check_invariants=False) for part in found]
    return sum(parts[1:], parts[0]) if parts else None


def trace(
    step: Callable[..., Any], values: Sequence[Tensor], leaves: Sequence[Any], roots: Sequence[Any]
) -> tuple[Any, dict[str, Any]]:
    """Return the module of the operations of a step, and its constants by name.

    Args:
        step: A function of the values of variables and of a batch.
        values: The values of variables.
        leaves: The tensors of a batch.
        roots: The objects that it also reads. They stay as they are.

    Raises:
        Exception: If the operations would not be those of every step.
    """
    before = StepState(roots, has_data=True)
    for draw in (random.random, np.random.random, partial(torch.rand, 1, device="cpu")):
        draw()  # so that a step which sets a seed changes a state
    moved = StepState(roots, has_data=True)
    # The same tensor in two places would be one argument.
    arguments = [x if x is None else x.detach() for x in [*values, *leaves]]
    try:
        (first, known), (module, constants) = (_record(step, arguments) for _ in range(2))
        if change := moved.change():
            raise UntraceableError(f"a step changes {change}")
        are_equal = all(map(is_equal, known.values(), constants.values()))
        if first.code != module.code or not are_equal:
            raise UntraceableError("two traces of a step differ")
    finally:
        before.restore()
    trained = {x.untyped_storage().data_ptr() for x in values if x.requires_grad}
    for constant in constants.values():
        if constant.requires_grad or constant.untyped_storage().data_ptr() in trained - {0}:
            raise UntraceableError(f"a step reads a weight of PyTorch, {tuple(constant.shape)}")
    module.graph.eliminate_dead_code()
    return module, constants


def _record(step: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    module = record(step, arguments)
    if any(node.kwargs.get("generator") is not None for node in module.graph.nodes):
        raise UntraceableError("a step uses a generator of PyTorch")
    names = [node.target for node in module.graph.nodes if node.op == "get_attr"]
    return module, {name: getattr(module, name) for name in names}
