"""Training steps on PyTorch as flat graphs of operations, without the Python between them.

Only `MultiTaskTraining.make_train_function` imports this module, and only on PyTorch.
"""

import random
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode

from ple_keras._checks import warn_user
from ple_keras._keras.internals import (
    fit_reads_logs,
    has_hooks,
    has_rate_function,
    mask_of,
    module_hooks,
)
from ple_keras._keras.layers import find_layers, walk
from ple_keras._keras.tensors import has_several_processes
from ple_keras._typing import Nested, Tensor
from ple_keras.heads.task_heads import TaskHeads

MAX_GRAPHS = 16  # of batches with different shapes
SETTINGS = (bool, int, float, str)  # types of attributes that are constants of a graph
PACKAGES = (Path(torch.__file__).parent, Path(keras.__file__).parent, Path(__file__).parents[1])
LIBRARIES = (*map(str, PACKAGES), "<string>")  # the last is code from PyTorch


class UntraceableError(Exception):
    """The reason why a step can't be traced."""


class Graph(NamedTuple):
    """A traced step.

    Attributes:
        run: A function that updates variables in place, and returns the values of the logs, and the
            gradients of each optimizer of `tables`.
        inputs: The positions of its arguments in all inputs.
        tables: The optimizers of tables by rows, each with its variables. They do not belong to the
            graph, since the number of rows depends on the ids.
        keys: The keys of the logs.
    """

    run: Callable[..., tuple[Tensor | None, list[Any]]]
    inputs: list[int]
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
        model: The compiled model.
        eager_step: Keras's training function.
        logs_are_metrics: Whether logs only contain metrics, which `fit` reads after an epoch.
    """

    def __init__(self, model: Any, eager_step: Callable[..., Any], logs_are_metrics: bool) -> None:
        self._trained, self._eager_step = model, eager_step
        self._logs_are_metrics = logs_are_metrics
        self._graphs: dict[Any, Graph | None] = {}
        self._is_traceable = True
        self._history: Any = self
        self._settings: list[Any] = []

    def begin(self) -> None:
        """Prepare for a batch, or for a new `fit`, in which changed settings have an effect."""
        self._reads_logs = not self._logs_are_metrics or fit_reads_logs()
        model, history = self._trained, getattr(self._trained, "history", None)
        if history is self._history:
            return
        self._history, self._optimizer = history, model.optimizer
        self._optimizers = getattr(model.optimizer, "optimizers", [model.optimizer])
        layers = [path[-1] for path in walk(model)]
        self._objects = _each_once([*layers, *model.metrics, *self._optimizers])
        variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        self._state = _each_once(variables)
        self._tensors: list[Tensor] = [variable.value for variable in self._state]
        self._hooks = module_hooks(layers)
        settings: list[Any] = [len(self._state)]
        for name, value in (pair for thing in self._objects for pair in vars(thing).items()):
            if isinstance(value, SETTINGS) and name != "training":
                settings.append((name, value))
            elif isinstance(value, torch.Tensor):  # which a graph contains by reference
                settings.append(id(value))
        if settings != self._settings or len(self._graphs) == MAX_GRAPHS:
            self._settings, self._graphs = settings, {}
            self._is_traceable = not (
                type(model).train_step is not keras.Model.train_step
                or "train_step" in vars(model)
                or has_several_processes()
                or any(map(has_rate_function, self._optimizers))
            )

    def __call__(self, data: Sequence[Any]) -> Any:
        """Train on a batch, and return the logs."""
        batch, parameters = data[0], self._tensors
        leaves: list[Tensor] = []
        structure = _structure(batch, leaves)
        if not (self._is_traceable and self._is_plain(leaves, parameters)):
            return self._eager_step(data)
        key = (
            structure,
            tuple((x.shape, x.stride(), x.dtype, x.device) for x in leaves),
            tuple(parameter.requires_grad for parameter in parameters),
            (self._trained.training, self._reads_logs, keras.config.floatx()),
        )
        inputs = [*parameters, *leaves]
        graph = self._graphs.get(key)
        if graph is None and key in self._graphs:
            graph = self._graphs[key] = self._trace_or_warn(batch, parameters, inputs)
        elif len(self._graphs) < MAX_GRAPHS:
            self._graphs.setdefault(key)
        if graph is None:
            return self._eager_step(data)
        with torch.no_grad():
            try:
                logs, gradients = graph.run(*[inputs[i] for i in graph.inputs])
            except (IndexError, RuntimeError):  # before weights are updated
                with torch.enable_grad():
                    return self._eager_step(data)  # with an explanation of the error
            for (optimizer, variables), found in zip(graph.tables, gradients):
                optimizer.apply([*map(_gradient, found, variables)], variables)
        return dict(zip(graph.keys, [None] * len(graph.keys) if logs is None else logs.tolist()))

    def _is_plain(self, leaves: list[Any], parameters: list[Tensor]) -> bool:
        """Return whether a graph can do the same as an eager step. Convert arrays in `leaves`."""
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
                leaves[i] = keras.ops.convert_to_tensor(leaf)
            elif type(leaf) is not torch.Tensor or leaf.requires_grad or mask_of(leaf) is not None:
                return False
        return (
            self._trained.optimizer is self._optimizer
            and torch.is_grad_enabled()
            and not torch.is_autocast_enabled(parameters[0].device.type)
            and not has_hooks(self._hooks, parameters)
        )

    def _trace_or_warn(
        self, batch: Nested, parameters: list[Tensor], inputs: list[Tensor]
    ) -> Graph | None:
        """Return the graph of a step; None if it can't be traced."""
        has_filter = keras.config.is_traceback_filtering_enabled()
        keras.config.disable_traceback_filtering()
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # eager steps have the same warnings
                return self._trace(batch, parameters, inputs)
        except Exception as error:
            self._is_traceable = False
            frames = traceback.extract_tb(error.__traceback__)
            outside = [f for f in frames if not f.filename.startswith(LIBRARIES)]
            # Users can't change what Keras reads: seeds, and the state of some optimizers.
            is_of_keras = not outside or any(f.name == "torch_seed_generator" for f in frames)
            if isinstance(error, UntraceableError) or not is_of_keras:
                cause = f"{error}".partition("\n")[0]
                where = f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""
                warn_user(
                    f"A training step of {self._trained.name!r} can't be traced: all steps run "
                    "eagerly, which takes longer. In a step, layers, losses and metrics must not "
                    "read values of tensors, change attributes, draw random numbers with NumPy, or "
                    "use variables that no layer tracks. run_eagerly=True prevents this warning. "
                    f"Received: {type(error).__name__}: {cause}{where}"
                )
            return None
        finally:
            if has_filter:
                keras.config.enable_traceback_filtering()

    def _trace(self, batch: Nested, parameters: list[Tensor], inputs: list[Tensor]) -> Graph:
        """Return the graph of a step.

        Raises:
            Exception: If it can't be traced.
        """
        tables: list[Any] = []
        keys: list[str] = []

        def step(*arguments: Tensor) -> tuple[Tensor | None, list[Any]]:
            tensors = iter(arguments)
            values = [next(tensors).detach().requires_grad_(p.requires_grad) for p in parameters]
            data = _filled(batch, tensors)
            recorder = _Recorder([value for value in values if value.requires_grad])
            for optimizer in self._optimizers:
                vars(optimizer)["apply"] = partial(recorder.apply, optimizer, optimizer.apply)
            scope = _Scope([*zip(self._state, values)], True, False)
            with torch.enable_grad(), scope, recorder:
                logs = self._trained.train_step(data)
            keys.extend(logs)
            tables.extend(recorder.tables)
            read = [value.reshape(1) for value in logs.values()] if self._reads_logs else []
            return torch.cat(read) if read else None, recorder.gradients

        before: list[Any] = [dict(vars(thing)) for thing in self._objects]
        python, numpy = _random_states()
        try:
            # Tensors other than variables are constants by reference.
            trace = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)
            module = trace(*map(_alone, inputs))
            changed: list[tuple[Any, str]] = [
                (thing, name)
                for thing, old in zip(self._objects, before)
                for name, value in vars(thing).items()
                if isinstance(value, SETTINGS) and value is not old.get(name) != value
            ]
            if changed:
                raise UntraceableError("a step changes {1} of {0!r}".format(*changed[0]))
            drawn_python, drawn_numpy = _random_states()
            if drawn_python != python or drawn_numpy[2] != numpy[2]:
                raise UntraceableError("a step draws random numbers with Python or NumPy")
        finally:
            for thing, old in zip(self._objects, before):
                for name in {*vars(thing)} - {*old}:
                    del vars(thing)[name]
                vars(thing).update(old)
            random.setstate(python)
            np.random.set_state(numpy)
            for heads in find_layers(self._trained, TaskHeads):
                heads._take_branches()
        return Graph(*_simplify(module), tables, keys)


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
            if not table.is_leaf:  # a copy in half precision
                table = table.grad_fn.next_functions[0][0].variable
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
        found = [self._lookups.get(id(variable.value)) for variable in variables]
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


def _structure(batch: Nested, leaves: list[Any]) -> Any:
    """Return a hashable description of nested tensors, and append them to `leaves`."""
    if isinstance(batch, dict):
        return tuple((name, _structure(value, leaves)) for name, value in batch.items())
    if isinstance(batch, list | tuple):
        return tuple(_structure(value, leaves) for value in batch)
    if batch is not None:
        leaves.append(batch)
    return batch is None


def _filled(batch: Nested, tensors: Iterator[Tensor]) -> Nested:
    """Return a batch with other tensors, in the order of `_structure`."""
    if isinstance(batch, dict):
        return {name: _filled(value, tensors) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_filled(value, tensors) for value in batch)
    return None if batch is None else next(tensors)


def _random_states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _each_once(things: Iterable[Any]) -> list[Any]:
    return list({id(thing): thing for thing in things}.values())


def _alone(tensor: Tensor) -> Tensor:
    """Return a tensor with its own memory, since one tensor in two places would be one input."""
    options = {"dtype": tensor.dtype, "device": tensor.device}
    return torch.empty_strided(tensor.shape, tensor.stride(), **options)


def _simplify(module: Any) -> tuple[Callable[..., Any], list[int]]:
    """Return a function of a graph without useless operations, and the inputs that it reads."""
    graph, aten = module.graph, torch.ops.aten
    for node in list(graph.nodes):
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    placeholders = list(graph.find_nodes(op="placeholder"))
    inputs = [i for i, node in enumerate(placeholders) if node.users]
    for node in placeholders:
        if not node.users:
            graph.erase_node(node)
    graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    return module.forward, inputs
