"""Training steps on PyTorch as flat graphs of operations, without the Python between them.

Only `MultiTaskTraining.make_train_function` imports this module, and only on PyTorch.
"""

import random
import re
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import torch
from keras import ops
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ple_keras._checks import warn_user
from ple_keras._keras.internals import get_mask
from ple_keras._keras.layers import walk
from ple_keras._keras.tensors import has_several_processes
from ple_keras._typing import Tensor

MAX_GRAPHS = 16  # of batches with different shapes
IN_KEY = ("training", "_reads_logs")  # attributes for which a graph is chosen
PACKAGES = (Path(torch.__file__).parent, Path(keras.__file__).parent, Path(__file__).parents[1])
LIBRARIES = (*map(str, PACKAGES), "<string>")  # the last is code from PyTorch


class UntraceableError(Exception):
    """The reason why a step can't be traced."""


class Graph(NamedTuple):
    """A traced step.

    Attributes:
        run: A function that updates variables in place, and returns the values of the logs, and the
            gradients of each optimizer of `tables`.
        tables: The optimizers of tables by rows, each with its variables. They do not belong to the
            graph, since the number of rows depends on the ids.
        keys: The keys of the logs.
    """

    run: Callable[..., tuple[Tensor | None, list[Any]]]
    tables: list[tuple[Any, list[keras.Variable]]]
    keys: list[str]


class TracedStep:
    """A training function that replays the operations of an eager step.

    The first batch of a shape runs eagerly. When the shape comes again, Keras's step is traced as a
    pure function of the variables and the batch. The graph has the operations of the eager step in
    the same order, so its results are equal to the bit. Numbers and strings in attributes of layers
    are constants until the next `fit`. If a step reads the value of a tensor, or changes such an
    attribute, all steps run eagerly.

    Args:
        model: The compiled model. With `jit_compile=True`, torch.compile compiles its graphs.
    """

    def __init__(self, model: Any) -> None:
        self._trained = model
        self._graphs: dict[Any, Graph | None] = {}
        self._is_traceable = True
        self._history: Any = self
        self._constants: list[Any] = []

    def _begin(self) -> None:
        """Prepare for a new `fit`, in which changed attributes have an effect."""
        model = self._trained
        self._optimizers = getattr(model.optimizer, "optimizers", [model.optimizer])
        self._objects = [*(path[-1] for path in walk(model)), *model.metrics, *self._optimizers]
        variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        self._state = [*{id(variable): variable for variable in variables}.values()]
        self._values = [variable.value for variable in self._state]
        constants = [keras.config.floatx(), len(variables), *self._attributes()]
        if constants != self._constants or len(self._graphs) == MAX_GRAPHS:
            self._constants, self._graphs = constants, {}
            rates = [getattr(each, "learning_rate", None) for each in self._optimizers]
            has_number = any(isinstance(rate, float) for rate in rates)  # of a function
            self._is_traceable = not (has_number or has_several_processes())

    def _attributes(self) -> list[tuple[str, str, Any]]:
        """Return the attributes of layers, metrics and optimizers that are constants of a graph."""
        return [
            (thing.name, name, value)
            for thing in self._objects
            for name, value in vars(thing).items()
            if isinstance(value, bool | int | float | str) and name not in IN_KEY
        ]

    def _eager_step(self, data: Sequence[Any]) -> Any:
        return self._trained.train_step(data[0])

    def __call__(self, data: Sequence[Any]) -> Any:
        """Train on a batch, and return the logs."""
        model, batch = self._trained, data[0]
        history = getattr(model, "history", None)
        if history is not self._history:
            self._history = history
            self._begin()
        leaves, structure = tree_flatten(batch)
        leaves = [ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for x in leaves]
        has_autocast = torch.is_autocast_enabled(self._values[0].device.type)
        if has_autocast or not (self._is_traceable and all(map(_is_plain, leaves))):
            return self._eager_step(data)
        key = (
            structure,
            tuple([x is None or (x.shape, x.stride(), x.dtype, x.device) for x in leaves]),
            tuple([parameter.requires_grad for parameter in self._values]),
            (model.training, model._reads_logs),
        )
        graph = self._graphs.get(key)
        if graph is None and key in self._graphs:
            graph = self._graphs[key] = self._trace_or_warn(leaves, structure)
        elif len(self._graphs) < MAX_GRAPHS:
            self._graphs.setdefault(key)
        if graph is None:
            return self._eager_step(data)
        with torch.no_grad():
            try:
                logs, gradients = graph.run(*self._values, *leaves)
            except (IndexError, RuntimeError) as error:
                error.add_note(
                    "A traced step does not name the layer. check_inputs names ids that are not in "
                    "a table, and check_labels wrong labels. run_eagerly=True names the layer."
                )
                raise
            for (optimizer, variables), found in zip(graph.tables, gradients):
                optimizer.apply([*map(_gradient, found, variables)], variables)
        return dict.fromkeys(graph.keys) if logs is None else dict(zip(graph.keys, logs.tolist()))

    def _trace_or_warn(self, leaves: list[Any], structure: TreeSpec) -> Graph | None:
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
                    f"A training step of {self._trained.name!r} can't be traced: all steps run "
                    "eagerly, which takes longer. In a step, layers, losses and metrics must not "
                    "read values of tensors, change attributes, draw random numbers with NumPy, or "
                    "use variables that no layer tracks. run_eagerly=True prevents this warning. "
                    f"Received: {type(cause).__name__}: {f'{cause}'.partition(chr(10))[0]}{where}"
                )
            return None

    def _trace(self, leaves: list[Any], structure: TreeSpec) -> Graph:
        """Return the graph of a step.

        Raises:
            Exception: If it can't be traced.
        """
        tables: list[Any] = []
        keys: list[str] = []
        trained = [parameter.requires_grad for parameter in self._values]

        def step(*arguments: Any) -> tuple[Tensor | None, list[Any]]:
            values = [x.detach().requires_grad_(is_on) for x, is_on in zip(arguments, trained)]
            data = tree_unflatten(arguments[len(trained) :], structure)
            recorder = _Recorder([value for value in values if value.requires_grad])
            for optimizer in self._optimizers:
                vars(optimizer)["apply"] = partial(recorder.apply, optimizer, optimizer.apply)
            scope = _Scope([*zip(self._state, values)], True, False)
            with torch.enable_grad(), scope, recorder:
                logs = self._trained.train_step(data)
            keys.extend(logs)
            tables.extend(recorder.tables)
            read = [x.reshape(1) for x in logs.values()] if self._trained._reads_logs else []
            return torch.cat(read) if read else None, recorder.gradients

        def state() -> set[Any]:
            numpy = np.random.get_state(legacy=False)["state"]["pos"]
            generators = {"random": random.getstate(), "np.random": numpy}
            drawn = {(name, "the state", value) for name, value in generators.items()}
            return drawn.union(self._attributes())

        before, old_state = [dict(vars(thing)) for thing in self._objects], state()
        try:
            # Tensors other than variables are constants by reference. The same tensor in two places
            # would be one input.
            trace = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)
            values = [*self._values, *leaves]
            module = trace(*[x if x is None else x.detach() for x in values])
            if changed := state() - old_state:
                raise UntraceableError("a step changes {1} of {0!r}".format(*changed.pop()))
        finally:
            for thing, old in zip(self._objects, before):
                vars(thing).clear()
                vars(thing).update(old)
        return Graph(_compile(module, self._trained.jit_compile), tables, keys)


class _Scope(keras.StatelessScope):
    """The variables of a step, which are updated in place, as in an eager step."""

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        variable, value = update
        current = self.get_current_value(variable)
        if current is None:
            raise UntraceableError(f"no layer or metric tracks the variable {variable.path!r}")
        with torch.no_grad():
            current.copy_(value)


class _Recorder(TorchFunctionMode):
    """The backward pass of a step, in which rows of tables have gradients of their own.

    Attributes:
        tables: The optimizers that get gradients of rows, each with its variables.
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
        if function is embedding and kwargs["sparse"]:
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


def _gradient(found: Any, variable: keras.Variable) -> Tensor | None:
    """Return the gradient of a variable, which is sparse for rows."""
    if not isinstance(found, list):
        return found
    shape = tuple(variable.shape)
    parts = [torch.sparse_coo_tensor(*part, shape, check_invariants=False) for part in found]
    return sum(parts[1:], parts[0]) if parts else None


def _is_plain(leaf: Any) -> bool:
    """Return whether a graph can do the same with a part of a batch as an eager step."""
    is_tensor = type(leaf) is torch.Tensor and not leaf.requires_grad
    return leaf is None or (is_tensor and get_mask(leaf) is None)


def _compile(module: Any, is_jit: bool) -> Any:
    """Return a function of a graph without useless operations."""
    graph = module.graph
    graph.eliminate_dead_code()
    graph.set_codegen(torch.fx.graph.CodeGen())
    if is_jit:
        module.recompile()
        return torch.compile(module)
    code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)

    def name_of(match: re.Match[str]) -> str:
        name = match[1].replace(".", "_")
        names[name] = attrgetter(match[1])(torch.ops)._op
        return name

    # The functions of operations take a third less time without the Python around them.
    exec(re.sub(r"torch\.ops\.([\w.]+)", name_of, code.src), names)
    return partial(names["forward"], module)
