"""Steps on PyTorch as flat graphs of operations, without the Python between them.

Only `trace_function` imports this module, and only on PyTorch. `record` and `to_function` use what
PyTorch does not promise, and state their reasons and the versions of PyTorch on which they were
tested. `tests/training/test_torch_internals.py` fails if PyTorch changes the behavior.
"""

import os
import random
import re
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from threading import RLock
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch
from keras import ops
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ple_keras._checks import warn_user
from ple_keras._keras.internals import get_mask, has_rate_function
from ple_keras._keras.layers import walk
from ple_keras._keras.tensors import has_several_processes
from ple_keras._typing import Tensor
from ple_keras.steps.step_state import StepState, is_equal

MAX_GRAPHS = 16  # of batches with different shapes
PACKAGES = (Path(torch.__file__).parent, Path(keras.__file__).parent, Path(__file__).parents[1])
Replay = Callable[[list[Any], list[Any]], Any]  # of a step, with values of variables and a batch
LIBRARIES = (*(f"{path}{os.sep}" for path in PACKAGES), "<string>")  # the last: code from PyTorch
READS = (torch.Tensor.tolist, torch.equal, torch.allclose)  # PyTorch refuses other ones


class UntraceableError(Exception):
    """The reason why a step can't be traced."""


class TracedStep:
    """A training, test or predict function that replays the operations of an eager step.

    The first batch of a shape runs eagerly. When the shape comes again, Keras's step is traced as a
    pure function of the variables and the batch. The graph has the operations of the eager step in
    the same order. It reads attributes and items of containers as constants, until the next `fit`,
    or for predictions until they change. If a step changes them, or reads the value of a tensor,
    all steps run eagerly.

    Args:
        model: The model. With `jit_compile=True`, torch.compile compiles its graphs.
        kind: "train", "test" or "predict".
    """

    def __init__(self, model: Any, kind: str) -> None:
        self._traced, self._kind, self._is_training = model, kind, kind == "train"
        self._graphs: dict[Any, Replay | None] = {}
        self._is_traceable = not has_several_processes()
        self._fits, self._changes = -1, 0
        self._optimizers: list[Any] = []
        self._read: StepState | None = None
        # A trace changes live layers for a moment, for which steps in other threads wait.
        self._guard = vars(model).setdefault("_trace_lock", RLock())

    def _begin(self) -> None:
        """Make changed attributes have an effect."""
        model, parts = self._traced, []
        if self._kind != "predict":
            parts += model.metrics
        if self._is_training:
            self._optimizers = getattr(model.optimizer, "optimizers", [model.optimizer])
            self._is_traceable &= not any(map(has_rate_function, self._optimizers))
            parts += [model.optimizer, *self._optimizers]
        variables = [*model.variables, *(each for part in parts for each in part.variables)]
        self._state = [*{id(variable): variable for variable in variables}.values()]
        self._values = [variable.value for variable in self._state]
        self._roots = [*(path[-1] for path in walk(model)), *parts, *self._state]
        self._read, self._graphs = StepState(self._roots), {}
        self._changes += 1
        self._is_traceable &= self._is_training or self._changes <= MAX_GRAPHS

    def _eager_step(self, data: Sequence[Any]) -> Any:
        with torch.set_grad_enabled(self._is_training):
            return getattr(self._traced, f"{self._kind}_step")(data[0])

    def __call__(self, data: Sequence[Any]) -> Any:
        """Return the logs or the predictions of a batch."""
        if not self._is_traceable:
            return self._eager_step(data)
        leaves, structure = tree_flatten(data[0])
        leaves = [ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for x in leaves]
        with self._guard:
            is_due = not self._is_training or self._fits != self._traced._fits
            if is_due and (self._read is None or not self._read.is_same()):
                self._begin()
            self._fits = getattr(self._traced, "_fits", 0)
            graph, values = self._find_graph(leaves, structure), self._values
            if graph is None:
                return self._eager_step(data)
        try:
            return graph(values, leaves)
        except (IndexError, RuntimeError) as error:
            error.add_note(
                "check_inputs names ids that are not in a table, and check_labels wrong labels. "
                "Lower the learning rate if numbers are NaN. run_eagerly=True names the layer."
            )
            raise

    def _find_graph(self, leaves: list[Any], structure: TreeSpec) -> Replay | None:
        """Return the graph of a step; None if the step has to run eagerly."""
        has_autocast = any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        if has_autocast or not (self._is_traceable and all(map(_is_plain, leaves))):
            return None
        modes = self._traced.training, getattr(self._traced, "_reads_logs", True)
        key = (
            structure,
            tuple([x is None or (x.shape, x.stride(), x.dtype, x.device) for x in leaves]),
            tuple([value.requires_grad for value in self._values]),
            (*modes, keras.config.floatx()),
        )
        if self._graphs.get(key) is None and key in self._graphs:
            self._graphs[key] = self._trace_or_warn(leaves, structure)
        elif len(self._graphs) < MAX_GRAPHS:
            self._graphs.setdefault(key)
        return self._graphs.get(key)

    def _trace_or_warn(self, leaves: list[Any], structure: TreeSpec) -> Replay | None:
        """Return the graph of a step; None if it can't be traced."""
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # eager steps have the same warnings
                return self._trace(leaves, structure)
        except Exception as error:
            self._is_traceable = False
            cause: BaseException = error
            while cause.__context__ is not None:  # Keras adds the arguments of layers to messages
                cause = cause.__context__
            frames = traceback.extract_tb(cause.__traceback__)
            outside = [f for f in frames if not f.filename.startswith(LIBRARIES)]
            # Users can't change what Keras reads: seeds, and the state of some optimizers.
            if outside or isinstance(cause, UntraceableError):
                where = f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""
                warn_user(
                    f"The {self._kind} step of {self._traced.name!r} can't be traced: all steps "
                    "run eagerly, which takes longer. Layers, losses and metrics must not "
                    "read values of tensors, change attributes, draw random numbers without "
                    "PyTorch, train its modules, or update variables that no layer tracks. "
                    "run_eagerly=True prevents this warning. "
                    f"Received: {type(cause).__name__}: {f'{cause}'.partition(chr(10))[0]}{where}"
                )
            return None

    def _trace(self, leaves: list[Any], structure: TreeSpec) -> Replay:
        """Return the graph of a step.

        Raises:
            Exception: If it can't be traced.
        """
        tables: list[Any] = []
        structures: list[TreeSpec] = []
        trained = [parameter.requires_grad for parameter in self._values]

        def step(*arguments: Any) -> tuple[Any, list[Any]]:
            values = [*arguments[: len(trained)]]
            if self._is_training:
                values = [x.detach().requires_grad_(is_on) for x, is_on in zip(values, trained)]
            data = tree_unflatten(arguments[len(trained) :], structure)
            recorder = Recorder([value for value in values if value.requires_grad])
            for optimizer in self._optimizers:
                vars(optimizer)["apply"] = partial(recorder.apply, optimizer, optimizer.apply)
            with StepScope([*zip(self._state, values)], True, False), recorder:
                results = self._eager_step([data])
            if self._kind != "predict" and not self._traced._reads_logs:
                results = dict.fromkeys(results)
            found, whole = tree_flatten(results)
            structures[:], tables[:] = [whole], recorder.tables
            for value in found:
                if not isinstance(value, torch.Tensor | None):
                    raise UntraceableError(f"{self._kind}_step returns {value!r}, not a tensor")
            if self._is_training and self._traced._reads_logs:  # for a single read
                found = torch.cat([value.reshape(1) for value in found])
            return found, recorder.gradients

        module, constants = self._record_twice(step, leaves)
        module.recompile()
        is_jit = self._traced.jit_compile
        run = torch.compile(module) if is_jit else to_function(module, constants)

        def replay(values: list[Any], leaves: list[Any]) -> Any:
            with torch.no_grad():
                results, gradients = run(*values, *leaves)
                for (optimizer, variables), found in zip(tables, gradients):
                    optimizer.apply([*map(gradient_of, found, variables)], variables)
            results = results if isinstance(results, list) else results.tolist()
            return tree_unflatten(results, structures[0])

        return replay

    def _record_twice(
        self, step: Callable[..., Any], leaves: Sequence[Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the module of the operations of a step, and its constants by name.

        What the step reads stays as it is.

        Raises:
            Exception: If the operations would not be those of every step.
        """
        before = StepState(self._roots, has_data=True)
        for draw in (random.random, np.random.random, partial(torch.rand, 1, device="cpu")):
            draw()  # so that a step which sets a seed changes a state
        moved = StepState(self._roots, has_data=True)
        # The same tensor in two places would be one argument.
        arguments = [x if x is None else x.detach() for x in [*self._values, *leaves]]
        try:
            (first, known), (module, constants) = (record(step, arguments) for _ in range(2))
            if change := moved.change():
                raise UntraceableError(f"a step changes {change}")
            are_equal = all(map(is_equal, known.values(), constants.values()))
            if first.code != module.code or not are_equal:
                raise UntraceableError("two traces of a step differ")
        finally:
            before.restore()
        trained = {x.untyped_storage().data_ptr() for x in self._values if x.requires_grad}
        for constant in constants.values():
            if constant.requires_grad or constant.untyped_storage().data_ptr() in trained - {0}:
                raise UntraceableError(f"a step reads a weight of PyTorch, {tuple(constant.shape)}")
        module.graph.eliminate_dead_code()
        return module, constants


def _is_plain(leaf: Any) -> bool:
    """Return whether a part of a batch is None, or a tensor without a gradient and a mask."""
    is_tensor = type(leaf) is torch.Tensor and not leaf.requires_grad
    return leaf is None or (is_tensor and get_mask(leaf) is None)


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


def record(step: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """Return the operations of a step as a module, without running them, and its constants by name.

    Tensors that are not arguments are constants by reference: without `_allow_non_fake_inputs`,
    they would be errors, even the thresholds of a metric. PyTorch 2.13.
    """
    module = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)
    if any(node.kwargs.get("generator") is not None for node in module.graph.nodes):
        raise UntraceableError("a step uses a generator of PyTorch")
    names = [node.target for node in module.graph.nodes if node.op == "get_attr"]
    return module, {name: getattr(module, name) for name in names}


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
