"""The weights of each branch of a model, by the structure of the model."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import keras

from ple_keras._checks import warn_user
from ple_keras._keras.layers import find_layers
from ple_keras._keras.slices import whole_slices
from ple_keras._typing import TaskName, WeightSlice
from ple_keras.heads.regression_heads import StandardizedHead
from ple_keras.heads.task_heads import TaskHeads, branch_names, find_heads, hedged_heads
from ple_keras.layers.experts import StackedExperts
from ple_keras.layers.gate import Gate
from ple_keras.layers.hedged_block import OWN, HedgedBlock
from ple_keras.layers.stream_features import StreamFeatures

Branch: TypeAlias = tuple[TaskName, str]
SliceKey: TypeAlias = tuple[int, tuple[int | slice, ...]]  # the `id` of a variable, and an index


class StoppingGroup(NamedTuple):
    """Branches that stop together, since losses train them together.

    The own branch of a task is a group. The own branches of all factors of a product are one group.
    Any other branch is one group over all tasks.

    Attributes:
        branch: The name of the branch.
        tasks: The tasks.
    """

    branch: str
    tasks: tuple[TaskName, ...]


Unit = StoppingGroup  # the name in `FitHedge.kept` that was pickled with 0.7.0


def find_groups(model: keras.Layer) -> dict[Branch, StoppingGroup]:
    """Return the group of each branch of each task."""
    heads = find_heads(model)
    joined = {task: {task} for task in heads}  # products and their factors
    for task, head in heads.items():
        tasks = set().union(*(joined[each] for each in (task, *getattr(head, "of", ()))))
        joined.update(dict.fromkeys(tasks, tasks))
    groups = {}
    names = branch_names(model)
    for task, branch in [(t, branch) for t, of_task in names.items() for branch in of_task]:
        alike = {each for each in heads if branch in names[each]}
        tasks = joined[task] if branch == OWN else alike
        groups[task, branch] = StoppingGroup(branch, tuple(sorted(tasks)))
    return groups


def find_weights(model: keras.Layer) -> dict[StoppingGroup, list[WeightSlice]]:
    """Return the variables, and the slices of stacked experts, of each group.

    A branch owns its heads, its experts, and its copy of the features, in the block or in a
    StreamFeatures before it. All other layers before the heads belong to no branch.

    Warns:
        UserWarning: If a trainable variable before the heads belongs to no branch.
    """
    readers = _find_readers(model)
    stacks = find_layers(model, StackedExperts)
    slices = [x for stack in stacks for name in stack._streams.value for x in stack.slices(name)]
    known = {id(variable) for variable, _ in slices}
    # Statistics of gates and of labels, which training does not change.
    known |= {id(getattr(gate, "_sums", None)) for gate in find_layers(model, Gate)}
    for head in find_layers(model, StandardizedHead):
        known |= {*map(id, head._scale_weights())}
    slices += whole_slices(x for x in model.weights if id(x) not in known)
    of_heads = {id(x) for heads in find_layers(model, TaskHeads) for x in heads.weights}
    weights: dict[StoppingGroup, list[WeightSlice]] = defaultdict(list)
    common = []
    for each in slices:  # in the order of the arrays of pickled `kept`
        variable, index = each
        groups = readers[id(variable), index] | readers[id(variable), ()]
        if len(groups) != 1 and variable.trainable and id(variable) not in of_heads:
            common.append(variable.path)
        elif len(groups) == 1 and keras.backend.is_float_dtype(variable.dtype):
            weights[groups.pop()].append(each)
    weights.pop(NO_GROUP, None)
    if common:
        warn_user(
            f"The weights {[*dict.fromkeys(common)]} do not belong to a single branch, so they "
            "stay as in the last epoch. Pass the layers before the HedgedBlock as its features, so "
            "that each branch has a copy, or use FitHedge(restore_best_weights=False)"
        )
    return dict(weights)


NO_GROUP = StoppingGroup("", ())  # of tasks without branches


def _find_readers(model: keras.Layer) -> dict[SliceKey, set[StoppingGroup]]:
    """Return the groups that read each variable, or each slice of stacked experts."""
    hedged, groups = hedged_heads(model), find_groups(model)
    readers: dict[SliceKey, set[StoppingGroup]] = defaultdict(set)
    by_stream: dict[str, set[StoppingGroup]] = defaultdict(set)  # of the inputs of blocks

    def add(slices: Iterable[WeightSlice], found: Iterable[StoppingGroup]) -> None:
        for variable, index in slices:
            readers[id(variable), index].update(found)

    blocks = [block for block in find_layers(model, HedgedBlock) if block.built]
    for (task, branch), group in groups.items():
        add(whole_slices(hedged[task][branch].weights if task in hedged else ()), [group])
        for block in blocks:
            if task in block.task_names and branch in block.branch_names:
                add(block._slices(task, branch), [group])
                for stream in block._input_streams(task, branch):
                    by_stream[stream].add(group)
    tasks = {task for layer in find_layers(model, TaskHeads) for task in layer.task_names}
    others = tasks - {*hedged}
    inside = [each for block in blocks for each in find_layers(block, StreamFeatures)]
    for features in find_layers(model, StreamFeatures):
        for stream in features._streams() if features not in inside else ():
            add(features._slices(stream), by_stream[stream])
            if stream in others or not others <= {*features.task_names}:  # can read any stream
                add(features._slices(stream), [NO_GROUP])
    return readers
