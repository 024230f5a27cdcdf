"""The weights of each branch of a model, by the structure of the model."""

from collections import defaultdict
from collections.abc import Iterator
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


NO_GROUP = StoppingGroup("", ())  # tasks without branches


def find_groups(model: keras.Layer) -> dict[Branch, StoppingGroup]:
    """Return the group of each branch of each task."""
    heads, names = find_heads(model), branch_names(model)
    joined = {task: {task} for task in heads}  # products and their factors
    for task, head in heads.items():
        factors = getattr(head, "of", ())
        tasks = joined[task].union(*(joined[factor] for factor in factors))
        joined.update(dict.fromkeys(tasks, tasks))
    groups = {}
    for task, branches in names.items():
        for branch in branches:
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
    for each in slices:  # the arrays of pickled `kept` have this order
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


def _find_readers(model: keras.Layer) -> dict[SliceKey, set[StoppingGroup]]:
    """Return the groups that read each variable, or each slice of stacked experts."""
    blocks = [block for block in find_layers(model, HedgedBlock) if block.built]
    inside = {id(x) for block in blocks for x in find_layers(block, StreamFeatures)}
    before = [x for x in find_layers(model, StreamFeatures) if id(x) not in inside]
    readers: dict[SliceKey, set[StoppingGroup]] = defaultdict(set)
    for branch, group in find_groups(model).items():
        for variable, index in _read_by_branch(model, branch, blocks, before):
            readers[id(variable), index].add(group)
    for variable, index in _read_by_others(model, before):
        readers[id(variable), index].add(NO_GROUP)
    return readers


def _read_by_branch(
    model: keras.Layer, branch: Branch, blocks: list[HedgedBlock], before: list[StreamFeatures]
) -> Iterator[WeightSlice]:
    """Yield the weights of a branch: its head, experts and copies of features.

    Args:
        model: The model.
        branch: The task, and the name of the branch.
        blocks: The HedgedBlocks.
        before: The layers of features that are not in the blocks.
    """
    task, name = branch
    hedged = hedged_heads(model).get(task)
    if hedged is not None:
        yield from whole_slices(hedged[name].weights)
    for block in blocks:
        if task in block.task_names and name in block.branch_names:
            yield from block._slices(task, name)
            for features in before:
                for stream in {*features._streams()} & {*block._input_streams(task, name)}:
                    yield from features._slices(stream)


def _read_by_others(model: keras.Layer, before: list[StreamFeatures]) -> Iterator[WeightSlice]:
    """Yield the copies of features that tasks without branches could read."""
    tasks = {task for heads in find_layers(model, TaskHeads) for task in heads.task_names}
    others = tasks - hedged_heads(model).keys()
    for features in before:
        reads_any = not others <= {*features.task_names}
        for stream in features._streams():
            if reads_any or stream in others:
                yield from features._slices(stream)
