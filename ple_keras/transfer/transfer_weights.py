"""Transfer of weights from a trained model to another model, matched by name."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from textwrap import TextWrapper

import keras
import numpy as np

from ple_keras._keras.internals import children
from ple_keras._keras.layers import BaseLayer, find_layers, walk
from ple_keras._keras.names import to_snake_case
from ple_keras._keras.slices import assign_slices, read_slice, whole_slices
from ple_keras._typing import Shape, WeightSlice
from ple_keras.columns.column_layers import columns_digest
from ple_keras.heads.head import Head
from ple_keras.heads.hedged_head import HedgedHead
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.gate import Gate
from ple_keras.layers.number_embedding import NumberEmbedding
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.layers.stream_features import StreamFeatures

# The weights of a head whose last axis has a number for each target:
OF_TARGETS = {"kernel", "bias", "mean", "deviation", "lora_kernel_b"}


@dataclass(frozen=True)
class _WeightGroup:
    """Weights that are copied together.

    Attributes:
        name: The name of the group.
        slices: The weights.
        meaning: An option that changes the meaning of the weights.
    """

    name: str
    slices: list[WeightSlice]
    meaning: str = ""

    def shapes(self) -> list[Shape]:
        return [np.broadcast_to(0, weight.shape)[index].shape for weight, index in self.slices]

    def __str__(self) -> str:
        return f"{self.meaning} shapes {self.shapes()}".strip()


@dataclass(frozen=True)
class Transfer:
    """Result of `transfer_weights`; prints as three lists.

    Attributes:
        copied: The names of the weights that were copied from the source to the target.
        new: The names of the target's weights that the source lacks; they did not change.
        left_out: The names of the source's weights that were not copied, with reasons.

    Example:

    >>> source, target = (CGCBlock(["click"], [8], 1, count, name="cgc") for count in (1, 2))
    >>> for block in (source, target):
    ...     _ = block(keras.ops.ones((1, 3)))
    >>> transfer = transfer_weights(source, target)
    >>> [name for name in transfer.new if "gate" not in name]
    ['shared/expert_1']
    """

    copied: tuple[str, ...]
    new: tuple[str, ...]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        reasons = [f"{name} ({reason})" for name, reason in self.left_out.items()]
        wrap = TextWrapper(100, "", "  ", break_long_words=False, break_on_hyphens=False)
        return "\n".join(
            wrap.fill(f"{title} ({len(names)}): {', '.join(names) or '-'}")
            for title, names in (("copied", self.copied), ("new", self.new), ("left out", reasons))
        )


def transfer_weights(source: keras.Layer, target: keras.Layer) -> Transfer:
    """Copy the weights that two models have in common, even if their tasks or their order differ.

    To add or remove a task, build a model with the new tasks, transfer the weights of the trained
    model, and continue to train. Weights are matched by name, which starts with the names of the
    enclosing layers:

    - `ple/0/click/expert_0`: an expert of a level.
    - `ple/0/gate/shared/click/expert_0`: a gate's column of W for one expert.
    - `ple/0/gate/click/gate_block`: a gate block.
    - `task_heads/click/tower`, `task_heads/click/head`: a head's tower, and its other weights.
    - `task_heads/assays/head/NR-AR`: the weights of a target of a head with `targets`.
    - `hedged/own/click/expert_0`, `task_heads/click/own/head`: weights of the branch "own".
    - `task_heads/click/mixture`: the mixture of the branches of a HedgedBlock.
    - `task_heads/click/loss_weight`: the state of a scheduled or learned loss weight.
    - `stream_features/stream-click`: the copy of a StreamFeatures for a stream.
    - `embedding/embeddings`: any other weight.

    Name layers, and the layers inside them. A block of this package without a given name has the
    name of its class, without a number. Weights with the same name, for example of several such
    blocks in one place, are ambiguous and left out.

    Weights with different shapes are left out, as are gates with a different `gate_reads` and heads
    with a different `standardize`. If the networks of `Columns` in the two models have different
    digests, tables and NumberEmbedding layers are left out, and copies of such networks as a whole:
    the codes and scales that they read differ. Stacked and copied experts are equivalent.
    Optimizers and gate statistics are not copied.

    A task's predictions do not change if no new weights affect them. In levels with a shared gate,
    the experts of a new task affect the other tasks: the new columns of W assign them a weight in
    the shared stream. The outputs of the next levels change until training adapts them.

    Args:
        source: A built model or layer with trained weights.
        target: A built model or layer, changed in place.

    Returns:
        A `Transfer` with the names of weights that were copied, are new, or were left out.

    Raises:
        TypeError: If either is not a Keras model or layer.
        ValueError: If either is not built or is quantized.

    Example:

    >>> def make(tasks):
    ...     inputs = keras.Input((16,))
    ...     return keras.Model(inputs, PLEBlock(1, tasks, [8], name="ple")(inputs))
    >>> trained, larger = make(["click"]), make(["buy", "click"])
    >>> print(transfer_weights(trained, larger))
    copied (4): ple/0/click/expert_0, ple/0/shared/expert_0, ple/0/gate/click/click/expert_0,
      ple/0/gate/click/shared/expert_0
    new (3): ple/0/buy/expert_0, ple/0/gate/buy/buy/expert_0, ple/0/gate/buy/shared/expert_0
    left out (0): -
    """
    _check_built(source, "source")
    _check_built(target, "target")
    source_groups, target_groups = _weight_groups(source), _weight_groups(target)
    copied, left_out = [], {}
    for name, groups in source_groups.items():
        group, *others = [*groups, *target_groups.get(name, [])]
        if name not in target_groups:
            left_out[name] = "not in the target"
        elif len(others) > 1:
            left_out[name] = "ambiguous: several in the source or the target have this name"
        elif group.meaning != others[0].meaning or group.shapes() != others[0].shapes():
            left_out[name] = f"{group} in the source, {others[0]} in the target"
        else:
            copied.append(name)
            assign_slices(zip(others[0].slices, map(read_slice, group.slices)))
    for layer in find_layers(target, keras.layers.Normalization):
        layer.finalize_state()  # the layer keeps copies of its weights
    new = [name for name in target_groups if name not in source_groups]
    return Transfer(tuple(copied), tuple(new), left_out)


def _short_name(outer: keras.Layer, layer: keras.Layer) -> str:
    """Return the name of a layer inside another, without the number in an automatic name."""
    for branch in getattr(outer, "branch_names", ()):
        if getattr(outer, f"branch-{branch}", None) is layer:
            return str(branch)
    if isinstance(outer, SequentialBlock) and isinstance(layer, CGCBlock):
        return str(outer.layers.index(layer))
    if isinstance(layer, Head | HedgedHead):
        return layer.task
    stem = re.sub(r"_\d+$", "", layer.name)
    automatic = (to_snake_case(type(layer).__name__), "ple_block", "mmoe_block")
    return stem if isinstance(layer, BaseLayer) and stem in automatic else str(layer.name)


def _check_built(model: keras.Layer, argument: str) -> None:
    """Check that an argument is a Keras layer that is built and not quantized."""
    if not isinstance(model, keras.Layer):
        raise TypeError(f"{argument} must be a Keras layer. Received: {argument}={model!r}")
    is_quantized = any(layer.quantization_mode for layer in find_layers(model, keras.Layer))
    if not model.built or is_quantized:
        raise ValueError(
            f"{argument} must be built, and not quantized. Received: {model=}, {is_quantized=}"
        )


def _weight_groups(model: keras.Layer) -> dict[str, list[_WeightGroup]]:
    """Return the groups of weights of a built model by name. Several groups can have the same name.

    Keras's own paths omit the enclosing models, and change when a file is loaded.
    """
    groups: dict[str, list[_WeightGroup]] = defaultdict(list)
    known: set[int] = set()
    columns = _columns_meaning(model)
    for path in walk(model):
        prefix, layer = "".join(f"{_short_name(*pair)}/" for pair in pairwise(path)), path[-1]
        own = [] if known.intersection(map(id, layer.weights)) else list(_layer_groups(layer))
        known |= {id(weight) for group in own for weight, _ in group.slices}
        inner = {id(weight) for child in children(layer) for weight in child.weights}
        meaning = columns if isinstance(layer, keras.layers.Embedding | NumberEmbedding) else ""
        for weight in [] if isinstance(layer, Gate) else layer.weights:  # a gate has statistics
            if id(weight) not in known | inner:
                own.append(_WeightGroup(weight.name, [(weight, ())], meaning))
        for group in own:
            groups[prefix + group.name].append(group)
    return groups


def _columns_meaning(layer: keras.Layer) -> str:
    """Return a text with the digest of the columns that a layer reads; empty without one."""
    digest = columns_digest(layer)
    return f"columns.digest={digest}" if digest else ""


def _layer_groups(layer: keras.Layer) -> Iterator[_WeightGroup]:
    """Yield the groups of several weights of a layer, such as those of an expert."""
    if isinstance(layer, CGCBlock) and layer.built:
        yield from _level_groups(layer)
    elif isinstance(layer, StreamFeatures):
        for copy in layer.layers:
            yield _WeightGroup(copy.name, whole_slices(copy.weights), _columns_meaning(copy))
    elif isinstance(layer, TaskHeads):
        states = layer._own_variables().values()
        for index, task in enumerate(layer.trained_tasks):
            yield _WeightGroup(f"{task}/loss_weight", [(state, (index,)) for state in states])
    elif isinstance(layer, Head):
        tower = layer._tower.weights if hasattr(layer, "_tower") else []
        rest = [weight for weight in layer.weights if not any(weight is x for x in tower)]
        by_target = [x for x in rest if x.name in OF_TARGETS and x.shape[-1] == layer.units]
        by_target = by_target if layer.targets else []
        for index, target in enumerate(layer.targets or ()):
            columns = [(w, (slice(None),) * (len(w.shape) - 1) + (index,)) for w in by_target]
            yield _WeightGroup(f"head/{target}", columns)
        rest = [weight for weight in rest if not any(weight is x for x in by_target)]
        yield from [_WeightGroup("tower", whole_slices(tower))] if tower else []
        yield from [_WeightGroup("head", whole_slices(rest))] if rest else []


def _level_groups(block: CGCBlock) -> Iterator[_WeightGroup]:
    """Yield the groups of a built level: experts, and each gate's columns of W and gate block."""
    for expert in block.expert_names:
        yield _WeightGroup(expert, block._level.experts.slices(expert))
    reads = f"gate_reads={block.gate_reads!r}"
    for name, gate in block._level.gates.items():
        if gate.num_experts == 1:
            continue
        # The attribute `kernel` of LoRA is a tensor, W plus the update.
        kernel = next(w for w in gate._projection.weights if w.name == "kernel")
        for index, expert in enumerate(block.gate_experts[name]):
            yield _WeightGroup(f"gate/{name}/{expert}", [(kernel, (slice(None), index))], reads)
        if hasattr(gate, "_block"):
            yield _WeightGroup(f"gate/{name}/gate_block", whole_slices(gate._block.weights), reads)
