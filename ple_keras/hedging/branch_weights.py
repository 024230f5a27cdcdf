"""The weights of each branch of a model, by the structure of the model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras

from ple_keras._checks import warn_user
from ple_keras._keras.internals import children, functional_outputs, tensor_call
from ple_keras._keras.layers import find_layers
from ple_keras._typing import TaskName, WeightSlice
from ple_keras.heads.regression_heads import StandardizedHead
from ple_keras.heads.task_heads import TaskHeads, find_heads
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.experts import StackedExperts
from ple_keras.layers.gate import Gate
from ple_keras.layers.hedged_block import OWN, HedgedBlock
from ple_keras.layers.stream_features import StreamFeatures

Branch: TypeAlias = tuple[TaskName, str]


class Unit(NamedTuple):
    """Branches that losses train together, and that stop together.

    The own branch of a task is a unit, and so are the own branches of all factors of a product. Any
    other branch is one unit over all tasks.

    Attributes:
        branch: The name of the branch.
        tasks: The tasks.
    """

    branch: str
    tasks: tuple[TaskName, ...]


def find_units(model: keras.Layer) -> dict[Branch, Unit]:
    """Return the unit of each branch of each task."""
    heads = find_heads(model)
    joined = {task: {task} for task in heads}  # products and their factors
    for task, head in heads.items():
        tasks = set().union(*(joined[each] for each in (task, *getattr(head, "of", ()))))
        joined.update(dict.fromkeys(tasks, tasks))
    units = {}
    for task, branch in [(t, b) for t, head in heads.items() for b in head.branch_names]:
        alike = {each for each in heads if branch in heads[each].branch_names}
        units[task, branch] = Unit(branch, tuple(sorted(joined[task] if branch == OWN else alike)))
    return units


def find_weights(model: keras.Layer) -> dict[Unit, list[WeightSlice]]:
    """Return the variables, and the slices of stacked experts, of each unit of branches.

    A branch owns its heads, its experts, and its copy of the features. What several branches read,
    or a branch and a task without branches, belongs to none.

    Warns:
        UserWarning: If several units read a trainable variable, which belongs to none.
    """
    readers = _Readers(model)
    stacks = find_layers(model, StackedExperts)
    parts = [part for stack in stacks for e in stack._streams.value for part in stack.slices(e)]
    known = {id(variable) for variable, _ in parts}
    # Statistics of gates and of labels, which training does not change.
    known |= {id(getattr(gate, "_sums", None)) for gate in find_layers(model, Gate)}
    for head in find_layers(model, StandardizedHead):
        known |= {*map(id, head._scale_weights())}
    parts += [(variable, ()) for variable in model.weights if id(variable) not in known]
    weights: dict[Unit, list[WeightSlice]] = defaultdict(list)
    common = []
    for part in parts:  # in the order of the arrays that 0.4.0 pickled
        units = readers.of_part(part)
        is_float = keras.backend.is_float_dtype(part[0].dtype)
        if len(units) == 1 and is_float:
            weights[units.pop()].append(part)
        elif len(units) > 1 and part[0].trainable:
            common.append(part[0].path)
    weights.pop(NO_UNIT, None)
    if common:
        warn_user(
            f"No branch owns the weights {[*dict.fromkeys(common)]}, which several branches read, "
            "so they stay as in the last epoch, and are not kept like those of the best epochs. "
            "Pass the layers before the HedgedBlock as its features, of which each branch has a "
            "copy, or set keep_best=False of FitHedge"
        )
    return dict(weights)


NO_UNIT = Unit("", ())  # which reads what tasks without branches read


class _Readers:
    """The units that read each variable of a model, or each slice of it.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Layer) -> None:
        self._found: dict[Any, set[Unit]] = defaultdict(set)
        self._units = units = find_units(model)
        self._by_stream: dict[str, set[Unit]] = defaultdict(set)  # of the input of blocks
        for task, head in find_heads(model).items():
            if not head.branch_names:
                self._by_stream[task].add(NO_UNIT)
            for branch in head.branch_names:
                copy = getattr(head, f"branch-{branch}", None)  # a product has no copies
                self._add(copy.weights if copy is not None else [], units[task, branch])
        for block in find_layers(model, HedgedBlock):
            for task in block.task_names if block.built else ():
                self._add_block(block, task)
        every = {*units.values(), NO_UNIT}
        if functional_outputs(model) is None:
            self._add_outer(model, every)
        else:
            self._follow_graph(model, every)

    def of_part(self, part: WeightSlice) -> set[Unit]:
        variable, index = part
        return self._found[id(variable), index] | self._found[id(variable), ()]

    def _add(self, variables: Iterable[keras.Variable], *units: Unit) -> None:
        for variable in variables:
            self._found[id(variable), ()].update(units)

    def _add_block(self, block: HedgedBlock, task: TaskName) -> None:
        """Add the parts of a block that a task reads."""
        units = {b: self._units[task, b] for b in block.branch_names if (task, b) in self._units}
        for branch, unit in units.items():
            layer = block[branch]
            if isinstance(layer, CGCBlock):
                self._add(layer._level.gates[task].weights, unit)
                for expert in layer.gate_experts[task]:
                    for variable, index in layer._level.experts.slices(expert):
                        self._found[id(variable), index].add(unit)
            else:
                self._add(layer.weights, unit)
            stream = task if block._template and branch == OWN else branch
            if block._features:
                self._add(getattr(block._features, f"stream-{stream}").weights, unit)
            elif block._template:
                self._by_stream[stream].add(unit)
            else:
                for stream in (*block.task_names, SHARED):
                    self._by_stream[stream].add(unit)

    def _add_outer(self, layer: keras.Layer, units: set[Unit]) -> None:
        """Add the weights of a layer that units read, without those of blocks and heads inside."""
        if isinstance(layer, StreamFeatures):
            for stream, name in layer._copy_of.value.items() if layer.built else ():
                self._add(getattr(layer, name).weights, *self._by_stream.get(stream, units))
        elif not isinstance(layer, HedgedBlock | TaskHeads):
            inner = children(layer)
            of_inner = {id(variable) for child in inner for variable in child.weights}
            self._add((x for x in layer.weights if id(x) not in of_inner), *units)
            for child in inner:
                self._add_outer(child, units)

    def _follow_graph(self, model: keras.Model, every: set[Unit]) -> None:
        """Add the weights of the layers before the block, from the outputs of a model."""
        pending = [(tensor, frozenset(every)) for tensor in keras.tree.flatten(model.output)]
        seen = set()
        while pending:
            tensor, units = pending.pop()
            if not units or (id(tensor), units) in seen:
                continue
            seen.add((id(tensor), units))
            layer, arguments = tensor_call(tensor)
            by_key: Any = next(iter(arguments), None)
            has_streams = isinstance(layer, HedgedBlock) and layer._template and not layer._features
            if isinstance(layer, TaskHeads):
                for task in layer.task_names:
                    features = by_key[task]
                    by_branch = features if isinstance(features, Mapping) else {"": features}
                    for branch, x in by_branch.items():
                        unit = self._units.get((task, branch), NO_UNIT)
                        pending.append((x, frozenset({unit})))
            elif has_streams and isinstance(by_key, Mapping):
                pending += [(x, units & self._by_stream[s]) for s, x in by_key.items()]
            else:
                if isinstance(layer, keras.Layer):
                    self._add_outer(layer, set(units))
                inputs = keras.tree.flatten(arguments)
                pending += [(x, units) for x in inputs if isinstance(x, keras.KerasTensor)]
