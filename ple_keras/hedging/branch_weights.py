"""The weights of each branch of a model, by the structure of the model."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import keras

from ple_keras._checks import warn_user
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
PartKey: TypeAlias = tuple[int, tuple[int | slice, ...]]  # the `id` of a variable, and an index


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

    A branch owns its heads, its experts, and its copy of the features, in the block or in a
    StreamFeatures before it. All other layers before the heads belong to no branch.

    Warns:
        UserWarning: If a trainable variable before the heads belongs to no branch.
    """
    readers = _find_readers(model)
    stacks = find_layers(model, StackedExperts)
    parts = [part for stack in stacks for e in stack._streams.value for part in stack.slices(e)]
    known = {id(variable) for variable, _ in parts}
    # Statistics of gates and of labels, which training does not change.
    known |= {id(getattr(gate, "_sums", None)) for gate in find_layers(model, Gate)}
    for head in find_layers(model, StandardizedHead):
        known |= {*map(id, head._scale_weights())}
    parts += [(variable, ()) for variable in model.weights if id(variable) not in known]
    of_heads = {id(x) for heads in find_layers(model, TaskHeads) for x in heads.weights}
    weights: dict[Unit, list[WeightSlice]] = defaultdict(list)
    common = []
    for part in parts:  # in the order of the arrays that 0.4.0 pickled
        variable, index = part
        units = readers[id(variable), index] | readers[id(variable), ()]
        if len(units) != 1 and variable.trainable and id(variable) not in of_heads:
            common.append(variable.path)
        elif len(units) == 1 and keras.backend.is_float_dtype(variable.dtype):
            weights[units.pop()].append(part)
    weights.pop(NO_UNIT, None)
    if common:
        warn_user(
            f"No branch alone has the weights {[*dict.fromkeys(common)]}, so they stay as in the "
            "last epoch, and are not kept like those of the best epochs. Pass the layers before "
            "the HedgedBlock as its features, of which each branch has a copy, or set "
            "keep_best=False of FitHedge"
        )
    return dict(weights)


NO_UNIT = Unit("", ())  # of tasks without branches


def _find_readers(model: keras.Layer) -> dict[PartKey, set[Unit]]:
    """Return the units that read each variable, or each slice of stacked experts."""
    heads, units = find_heads(model), find_units(model)
    readers: dict[PartKey, set[Unit]] = defaultdict(set)
    by_stream: dict[str, set[Unit]] = defaultdict(set)  # of the inputs of blocks

    def add(parts: Iterable[WeightSlice], found: Iterable[Unit]) -> None:
        for variable, index in parts:
            readers[id(variable), index].update(found)

    def add_layer(layer: keras.Layer, *found: Unit) -> None:
        add([(variable, ()) for variable in layer.weights], found)

    for (task, branch), unit in units.items():
        if (copy := getattr(heads[task], f"branch-{branch}", None)) is not None:
            add_layer(copy, unit)
    blocks = [block for block in find_layers(model, HedgedBlock) if block.built]
    found = [(b, *branch) for b in blocks for branch in units if branch[0] in b.task_names]
    for block, task, branch in found:
        if branch not in block.branch_names:  # of `given`
            continue
        layer, unit = block[branch], units[task, branch]
        if isinstance(layer, CGCBlock):
            add_layer(layer._level.gates[task], unit)
            for expert in layer.gate_experts[task]:
                add(layer._level.experts.slices(expert), [unit])
        else:
            add_layer(layer, unit)
        stream = task if block._template and branch == OWN else branch
        if block._features:
            add_layer(getattr(block._features, f"stream-{stream}"), unit)
        else:  # `branches` read all streams
            for each in [stream] if block._template else [*block.task_names, SHARED]:
                by_stream[each].add(unit)
    inside = [block._features for block in blocks]
    tasks = {task for layer in find_layers(model, TaskHeads) for task in layer.task_names}
    others = {task for task in tasks if not heads[task].branch_names}
    for features in find_layers(model, StreamFeatures):
        for stream, name in features._copy_of.value.items() if features not in inside else ():
            add_layer(getattr(features, name), *by_stream[stream])
            if stream in others or not others <= {*features.task_names}:  # can read any stream
                add_layer(getattr(features, name), NO_UNIT)
    return readers
