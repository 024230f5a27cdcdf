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
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ple_keras._checks import warn_user
from ple_keras._keras.internals import get_mask, hook_check
from ple_keras._keras.layers import find_layers, walk
from ple_keras._keras.tensors import has_several_processes
from ple_keras._typing import Nested, Tensor
from ple_keras.heads.task_heads import TaskHeads

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
        layers = [path[-1] for path in walk(model)]
        self._objects = [*layers, *model.metrics, *self._optimizers]
        variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        self._state = [*{id(variable): variable for variable in variables}.values()]
        self._values = [variable.value for variable in self._state]
        modules = (module for layer in layers for module in layer.modules())
        self._has_hooks = hook_check(modules, self._values)
        constants = [keras.config.floatx(), len(variables), *self._attributes()]
        if constants != self._constants or len(self._graphs) == MAX_GRAPHS:
            self._constants, self._graphs = constants, {}
            # Functions without arguments return numbers.
            rates = [getattr(each, "learning_rate", None) for each in self._optimizers]
            is_function = any(isinstance(rate, float) for rate in rates)
            self._is_traceable = not (is_function or has_several_processes())

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
        leaves: list[Any] = []
        structure = _structure(batch, leaves)
        if not (self._is_traceable and self._is_plain(leaves)):
            return self._eager_step(data)
        key = (
            structure,
            tuple([x is None or (x.shape, x.stride(), x.dtype, x.device) for x in leaves]),
            tuple([parameter.requires_grad for parameter in self._values]),
            (model.training, model._reads_logs),
        )
        inputs = [*self._values, *leaves]
        graph = self._graphs.get(key)
        if graph is None and key in self._graphs:
            graph = self._graphs[key] = self._trace_or_warn(batch, inputs)
        elif len(self._graphs) < MAX_GRAPHS:
            self._graphs.setdefault(key)
        if graph is None:
            return self._eager_step(data)
        with torch.no_grad():
            try:
                logs, gradients = graph.run(*[inputs[i] for i in graph.inputs])
            except (IndexError, RuntimeError):  # before weights are updated
                if model.jit_compile:
                    raise
                values = [value.clone() for value in self._values]
                try:
                    with torch.enable_grad():
                        return self._eager_step(data)  # with an explanation of the error
                except Exception:  # after a second update of moving statistics
                    for value, old in zip(self._values, values):
                        value.copy_(old)
                    raise
            for (optimizer, variables), found in zip(graph.tables, gradients):
                optimizer.apply([*map(_gradient, found, variables)], variables)
        return dict(zip(graph.keys, [None] * len(graph.keys) if logs is None else logs.tolist()))

    def _is_plain(self, leaves: list[Any]) -> bool:
        """Return whether a graph can do the same as an eager step. Convert arrays in `leaves`."""
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
                leaves[i] = keras.ops.convert_to_tensor(leaf)
            elif leaf is not None and (
                type(leaf) is not torch.Tensor or leaf.requires_grad or get_mask(leaf) is not None
            ):
                return False
        return not (torch.is_autocast_enabled(self._values[0].device.type) or self._has_hooks())

    def _trace_or_warn(self, batch: Nested, inputs: list[Any]) -> Graph | None:
        """Return the graph of a step; None if it can't be traced."""
        has_filter = keras.config.is_traceback_filtering_enabled()
        keras.config.disable_traceback_filtering()  # which also replaces messages
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # eager steps have the same warnings
                return self._trace(batch, inputs)
        except Exception as error:
            self._is_traceable = False
            frames = traceback.extract_tb(error.__traceback__)
            outside = [f for f in frames if not f.filename.startswith(LIBRARIES)]
            # Users can't change what Keras reads: seeds, and the state of some optimizers.
            if outside or isinstance(error, UntraceableError):
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

    def _trace(self, batch: Nested, inputs: list[Any]) -> Graph:
        """Return the graph of a step.

        Raises:
            Exception: If it can't be traced.
        """
        tables: list[Any] = []
        keys: list[str] = []
        trained = [parameter.requires_grad for parameter in self._values]

        def step(*arguments: Any) -> tuple[Tensor | None, list[Any]]:
            values = [x.detach().requires_grad_(is_on) for x, is_on in zip(arguments, trained)]
            data = tree_unflatten(arguments[len(trained) :], tree_flatten(batch)[1])
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

        def state() -> Any:
            numpy: Any = np.random.get_state()
            return random.getstate(), numpy[2], self._attributes()

        before: list[Any] = [dict(vars(thing)) for thing in self._objects]
        old_state = state()
        try:
            # Tensors other than variables are constants by reference. The same tensor in two places
            # would be one input.
            trace = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)
            module = trace(*[x if x is None else x.detach() for x in inputs])
            if changed := {*state()[2]} - {*old_state[2]}:
                raise UntraceableError("a step changes {1} of {0!r}".format(*changed.pop()))
            if state()[:2] != old_state[:2]:
                raise UntraceableError("a step draws random numbers with Python or NumPy")
        finally:
            for thing, old in zip(self._objects, before):
                for name in {*vars(thing)} - {*old}:
                    del vars(thing)[name]
                vars(thing).update(old)
            for heads in find_layers(self._trained, TaskHeads):
                heads._take_branches()
        return Graph(*_compile(module, self._trained.jit_compile), tables, keys)


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


def _structure(batch: Nested, leaves: list[Any]) -> Any:
    """Return a hashable description of nested tensors, and append them to `leaves`."""
    if isinstance(batch, dict):
        return tuple([(name, _structure(value, leaves)) for name, value in batch.items()])
    if isinstance(batch, list | tuple):
        return tuple([_structure(value, leaves) for value in batch])
    leaves.append(batch)
    return None


def _compile(module: Any, is_jit: bool) -> tuple[Callable[..., Any], list[int]]:
    """Return a function of a graph without useless operations, and the inputs that it reads."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    graph.eliminate_dead_code()
    placeholders = graph.find_nodes(op="placeholder")
    inputs = [i for i, node in enumerate(placeholders) if node.users]
    for node in placeholders:
        if not node.users:
            graph.erase_node(node)
    graph.set_codegen(torch.fx.graph.CodeGen())
    if is_jit:
        module.recompile()
        return torch.compile(module), inputs
    code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)

    def name_of(match: re.Match[str]) -> str:
        name = match[1].replace(".", "_")
        names[name] = attrgetter(match[1])(torch.ops)._op
        return name

    # The functions of operations take a third less time without the Python around them.
    source = re.sub(r"torch\.ops\.([\w.]+)", name_of, code.src)
    exec(source, names)
    return partial(names["forward"], module), inputs
