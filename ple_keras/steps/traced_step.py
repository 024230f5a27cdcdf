"""Steps on PyTorch as flat graphs of operations, without the Python between them.

Only `trace_function` imports this module, and only on PyTorch. `record` and `to_function` use what
PyTorch does not promise, and state their reasons and the versions of PyTorch on which they were
tested. `tests/training/test_torch_internals.py` fails if PyTorch changes the behavior.
"""

import re
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from threading import RLock
from traceback import extract_tb
from types import CodeType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch
from keras import ops
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ple_keras._checks import first_error, warn_user
from ple_keras._keras.internals import get_mask, has_rate_function
from ple_keras._keras.processes import has_several_processes
from ple_keras._typing import Nested, Tensor
from ple_keras.layers.row_updates import DeferredUpdates, RecordedRows
from ple_keras.steps.known_code import find_unknown_code, is_known_file
from ple_keras.steps.step_variables import StepVariables
from ple_keras.steps.trace_function import TracedModel

MAX_GRAPHS = 16  # shapes of batches
TENSOR_READS = (torch.Tensor.tolist, torch.equal, torch.allclose)  # PyTorch refuses other ones
GRADIENT = torch.Tensor.grad.__get__
DETACH = torch.ops.aten.detach.default
TRACE_LOCK = RLock()  # PyTorch records one graph at a time
# Arguments: the values of variables, and the tensors of a batch.
Replay = Callable[[list[Tensor], list[Tensor]], Tensor]
Findings = dict[CodeType, str | None]  # see `find_unknown_code`


class UntraceableError(Exception):
    """The reason why a step can't be traced."""


class Graphs:
    """The graphs of a step that are valid as long as its variables do not change.

    Attributes:
        state: The variables.
        replays: The graphs by shape of the batch.
        findings: The unknown code in an eager step of each shape.
        are_possible: Whether steps can be traced. If not, all of them run eagerly.
    """

    def __init__(self, state: StepVariables) -> None:
        self.state = state
        self.replays: dict[Hashable, Replay] = {}
        self.findings: dict[Hashable, Findings] = {}
        self.are_possible = True


class TracedStep:
    """A training, test or predict function that replays the operations of an eager step.

    The first batch of a shape runs eagerly, and a profile finds the code that runs. If all of it is
    known, and the shape comes again, Keras's step is traced as a pure function of the variables and
    the batch. The graph has the operations of the eager step in the same order. If code of users
    runs, which could do something else in each step, all steps run eagerly.

    Attributes are constants until the next `compile`, as on TensorFlow and JAX.

    Args:
        model: The model. With `jit_compile=True`, torch.compile compiles its graphs.
        kind: "train", "test" or "predict".
        traces_all: Whether to trace code of users, too.
    """

    def __init__(self, model: TracedModel, kind: str, traces_all: bool = False) -> None:
        self._traced, self._kind, self._traces_all = model, kind, traces_all
        self._graphs: Graphs | None = None

    def _eager_step(self, data: Sequence[Nested]) -> Nested:
        with torch.set_grad_enabled(self._kind == "train"):
            return getattr(self._traced, f"{self._kind}_step")(data[0])

    def __call__(self, data: Sequence[Nested]) -> Nested:
        """Return the logs or the predictions of a batch."""
        leaves, structure = tree_flatten(data[0])
        leaves = [ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for x in leaves]
        has_autocast = any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        if has_several_processes() or has_autocast or not all(map(_is_plain, leaves)):
            return self._eager_step(data)
        graphs = self._current_graphs()
        key = (
            structure,
            tuple([x is None or (x.shape, x.stride(), x.dtype, x.device) for x in leaves]),
            tuple([value.requires_grad for value in graphs.state.values]),
            (self._traced.training, self._traced._reads_logs),
        )
        replay = graphs.replays.get(key)
        if replay is None and graphs.are_possible:
            if graphs.findings.get(key) == {}:
                replay = self._trace_or_warn(graphs, key, leaves, structure)
            elif key in graphs.findings or len(graphs.findings) < MAX_GRAPHS:
                return self._watched_step(graphs, key, data)
        if replay is None:
            return self._eager_step(data)
        try:
            return replay(graphs.state.values, leaves)
        except (IndexError, RuntimeError) as error:
            error.add_note(
                "check_inputs names ids that are not in a table, and check_labels wrong labels. "
                "run_eagerly=True names the layer."
            )
            raise

    def _current_graphs(self) -> Graphs:
        """Return the graphs, or new ones if their variables have changed."""
        graphs = self._graphs
        if graphs is None or not graphs.state.are_current():
            graphs = self._graphs = Graphs(StepVariables(self._traced, self._kind))
        return graphs

    def _watched_step(self, graphs: Graphs, key: Hashable, data: Sequence[Nested]) -> Nested:
        """Run a step eagerly, and find the unknown code in it.

        A second step confirms a finding, since finalizers and signal handlers run by chance.
        """
        if sys.getprofile() is not None:  # nothing can be found while a user's profiler runs
            return self._eager_step(data)
        with find_unknown_code() as found:
            results = self._eager_step(data)
        if self._traces_all:
            found = {code: None for code, where in found.items() if where is None}
        before = graphs.findings.get(key)
        graphs.findings[key] = found if before is None else {}
        repeated = before and {each: found[each] for each in before.keys() & found.keys()}
        if repeated:
            graphs.are_possible = False
            files = sorted(where for where in repeated.values() if where)
            if files:
                self._warn(
                    "run eagerly on PyTorch, which takes longer, since their code could do "
                    "something else in each step. With compile(trace=True), this code runs once "
                    "for each shape of a batch. compile(trace=False) turns this warning off. "
                    f"Received: trace='auto' and the code of {', '.join(files[:3])}"
                )
        return results

    def _warn(self, message: str) -> None:
        """Warn once for a model, but not for wrappers of it, such as that of a report."""
        if self._traced._warns_of_eager_steps:
            self._traced._warns_of_eager_steps = False
            warn_user(f"Steps of {self._traced.name!r} {message}")

    def _trace_or_warn(
        self, graphs: Graphs, key: Hashable, leaves: list[Tensor], structure: TreeSpec
    ) -> Replay | None:
        """Return the graph of a step; None if it can't be traced."""
        with TRACE_LOCK, torch.no_grad():
            if key not in graphs.replays:  # another thread can have traced it
                try:
                    graphs.replays[key] = self._trace(graphs.state, leaves, structure)
                except Exception as error:
                    graphs.are_possible = False
                    if self._traces_all:  # nobody can change the code of libraries
                        self._warn(
                            "run eagerly: layers, losses and metrics must not read values of "
                            "tensors, train modules of PyTorch, or update untracked variables. "
                            f"Received: trace=True and {_describe(error)}"
                        )
        return graphs.replays.get(key)

    def _trace(self, state: StepVariables, leaves: list[Tensor], structure: TreeSpec) -> Replay:
        """Return the graph of a step.

        Raises:
            Exception: If it can't be traced.
        """
        if any(map(has_rate_function, state.optimizers)):
            raise UntraceableError("a learning rate is a function")
        recording = Recording(self, state, structure)
        # The same tensor in two places would be one argument.
        arguments = [x if x is None else x.detach() for x in [*state.values, *leaves]]
        module, references = record(recording.run, arguments)
        check_references(references, state.values)
        for node in module.graph.find_nodes(op="call_function", target=DETACH):
            node.replace_all_uses_with(node.args[0])  # a replay has no gradients
        module.graph.eliminate_dead_code()
        module.recompile()
        run = torch.compile(module) if self._traced.jit_compile else to_function(module, references)
        structure, calls = recording.structure, recording.deferred.calls

        def replay(values: list[Tensor], leaves: list[Tensor]) -> Nested:
            with torch.no_grad():
                results, gradients = run(*values, *leaves)
                for (optimizer, _, variables), found in zip(calls, gradients):
                    optimizer.apply([*map(gradient_of, found, variables)], variables)
            results = results if isinstance(results, list) else results.tolist()
            return tree_unflatten(results, structure)

        return replay

    def _returns_values(self) -> bool:
        """Return whether a graph returns the values of the logs.

        If a subclass changes the logs, the last batch has the logs of the epoch.
        """
        return self._traces_all or self._kind == "predict" or self._traced._reads_logs


class Recording:
    """A step as a function of tensors, which PyTorch records.

    Args:
        step: The step.
        state: The variables of the step.
        structure: The structure of a batch.

    Attributes:
        structure: The structure of the results, after a run.
        deferred: The updates of tables, after a run.
    """

    def __init__(self, step: TracedStep, state: StepVariables, structure: TreeSpec) -> None:
        self._step, self._batch_structure = step, structure
        self._traced_variables = state.variables
        self._are_trained = [value.requires_grad for value in state.values]
        self.structure, self.deferred = structure, DeferredUpdates()

    def run(self, *arguments: Tensor) -> tuple[Tensor, list[Nested]]:
        """Return the results of a step, and the gradients of the updates after its graph.

        Args:
            *arguments: The values of the variables, and the tensors of a batch.
        """
        count = len(self._traced_variables)
        values, leaves = [*arguments[:count]], arguments[count:]
        if self._step._kind == "train":
            pairs = zip(values, self._are_trained)
            values = [value.detach().requires_grad_(is_trained) for value, is_trained in pairs]
        recorder = Recorder([value for value in values if value.requires_grad])
        with StepScope([*zip(self._traced_variables, values)], True, False), recorder:
            results = self._step._eager_step([tree_unflatten(leaves, self._batch_structure)])
        self.deferred = recorder.deferred
        return self._flat(results), [gradients for _, gradients, _ in self.deferred.calls]

    def _flat(self, results: Nested) -> Tensor:
        """Return results as a list of tensors; in training as one tensor, for a single read."""
        has_values, kind = self._step._returns_values(), self._step._kind
        if not has_values:
            results = dict.fromkeys(results)
        found, self.structure = tree_flatten(results)
        for value in found:
            if not isinstance(value, torch.Tensor | None):
                raise UntraceableError(f"{kind}_step returns {value!r}, not a tensor")
        if has_values and kind == "train":
            return torch.cat([value.reshape(1) for value in found])
        return found


def check_references(references: Mapping[str, Tensor], values: Iterable[Tensor]) -> None:
    """Check that a graph reads no weights except those of variables."""
    weights = {x.untyped_storage().data_ptr() for x in values if x.requires_grad} - {0}
    for tensor in references.values():
        if tensor.requires_grad or tensor.untyped_storage().data_ptr() in weights:
            raise UntraceableError(f"a step reads a weight of PyTorch, {tuple(tensor.shape)}")


def _describe(error: BaseException) -> str:
    """Return the first line of an error, without Keras's additions, and the line of user code."""
    error = first_error(error)
    frames = [f for f in extract_tb(error.__traceback__) if not is_known_file(f.filename)]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in frames[-1:])
    return f"{type(error).__name__}: {f'{error}'.partition(chr(10))[0]}{where}"


def _is_plain(leaf: Tensor) -> bool:
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

    No tensor gets an attribute `grad`: reading it returns the gradient of the recorded step.

    Attributes:
        deferred: The updates of tables by rows.
    """

    def __init__(self, weights: list[Tensor]) -> None:
        self._weights = weights
        self._lookups: dict[int, list[tuple[Tensor, Tensor]]] = {}  # keys: the `id` of a table
        self._gradients: dict[int, Tensor] = {}  # keys: the `id` of a weight
        self.deferred = DeferredUpdates()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in TENSOR_READS:
            raise UntraceableError("a step reads the values of a tensor")
        if func == GRADIENT:
            return self._gradient(args[0])
        if func is embedding and kwargs["sparse"] and torch.is_grad_enabled():
            ids, table = args
            rows = embedding(ids, table.detach()).requires_grad_()
            self._lookups.setdefault(id(table), []).append((ids.reshape(1, -1).long(), rows))
            return rows
        if func is torch.Tensor.backward:
            self._add_gradients(*args, **kwargs)
            return None
        return func(*args, **kwargs)

    def _add_gradients(
        self, loss: Tensor, retain_graph: bool | None = None, **others: object
    ) -> None:
        """Add the gradients of a loss to the gradients of all weights."""
        if any(value is not None and value is not False for value in others.values()):
            raise UntraceableError("a step calls `backward` with arguments")
        rows = [rows for lookups in self._lookups.values() for _, rows in lookups]
        weights = [*self._weights, *rows]
        added = torch.autograd.grad(loss, weights, retain_graph=retain_graph, allow_unused=True)
        for weight, each in zip(weights, added):
            known = self._gradients.get(id(weight))
            if each is not None:
                self._gradients[id(weight)] = each if known is None else known + each

    def _gradient(self, weight: Tensor) -> Tensor:
        """Return the gradient of a weight, or the rows of a table's gradient."""
        gradient, lookups = self._gradients.get(id(weight)), self._lookups.get(id(weight))
        if lookups is None:
            return gradient
        if gradient is not None:
            raise UntraceableError("a step reads rows and the whole of a table")
        pairs = [(ids, self._gradients.get(id(rows))) for ids, rows in lookups]
        rows = [(ids, x.flatten(0, -2).to(weight.dtype)) for ids, x in pairs if x is not None]
        return RecordedRows(rows, self.deferred)


def gradient_of(found: Tensor, variable: keras.Variable) -> Tensor | None:
    """Return the gradient of a variable, which is sparse for rows."""
    if not isinstance(found, list):
        return found
    shape = tuple(variable.shape)
    terms = [torch.sparse_coo_tensor(*pair, shape, check_invariants=False) for pair in found]
    return sum(terms[1:], terms[0]) if terms else None


def record(
    step: Callable[..., Nested], arguments: Sequence[Tensor]
) -> tuple[torch.fx.GraphModule, dict[str, Tensor]]:
    """Return the operations of a step as a module, without running them, and its constants by name.

    Tensors that are not arguments are constants by reference: without `_allow_non_fake_inputs`,
    they would be errors, even the thresholds of a metric. PyTorch 2.13.
    """
    module = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)
    if any(node.kwargs.get("generator") is not None for node in module.graph.nodes):
        raise UntraceableError("a step uses a generator of PyTorch")
    names = [node.target for node in module.graph.nodes if node.op == "get_attr"]
    return module, {name: getattr(module, name) for name in names}


def to_function(
    module: torch.fx.GraphModule, constants: dict[str, Tensor]
) -> Callable[..., Tensor]:
    """Return a function that runs recorded operations, and holds nothing but their constants.

    The function of an operation, `_op`, takes a third less time than the object around it, by which
    a module calls it. Therefore, the code of the module is rewritten. PyTorch 2.13.
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
