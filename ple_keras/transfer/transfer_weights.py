"""Transfer of weights from a trained model to another model, matched by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import TextWrapper

import keras

from ple_keras._keras.walking import find_layers
from ple_keras.heads.regression_head import RegressionHead
from ple_keras.inspection.levels import find_levels
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.transfer._slices import (
    WeightSlices,
    check_built,
    copy_slices,
    gate_slices,
    named_slices,
    shape_difference,
    slices_of_levels,
)

Levels = Mapping[str, CGCBlock]
AUTOMATIC_KEY = re.compile(r"(.*/)?(cgc|ple|mmoe|sequential)_block(_\d+)?(/\d+)?")


@dataclass(frozen=True)
class Transfer:
    """Result of `transfer_weights`; prints as three lists.

    Attributes:
        copied: The names of the weights that were copied from the source to the target.
        new: The names of the target's weights that the source lacks; they did not change.
        left_out: The names of the source's weights that were not copied, each with the reason.

    Example:

    >>> source, target = (CGCBlock(["click"], [8], 1, count, name="cgc") for count in (1, 2))
    >>> for block in (source, target):
    ...     _ = block(keras.ops.ones((1, 3)))
    >>> transfer = transfer_weights(source, target)
    >>> [name for name in transfer.new if "gate" not in name]
    ['cgc/shared/expert_1']
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
    """Copy the weights that two models have in common. Their tasks may differ, and their order.

    To add or remove a task, build a model with the new tasks, transfer the weights of the trained
    model, and continue to train. Weights are matched by name:

    - `ple/0/click/expert_0`: an expert, by its level and name.
    - `ple/0/gate/shared/click/expert_0`: a gate's column of W for one expert.
    - `ple/0/gate/click/gate_block`: a gate block.
    - `click/tower`, `click/head`: a head's tower, and its other weights.
    - `click/own/head`, `click/mixture`: the head of a branch of a HedgedBlock, and the mixture.
    - `click/loss_weight`: the state of a scheduled or learned loss weight.
    - `stream-click`: the copy of a StreamFeatures for a stream.
    - `embedding/embeddings`: any other weight, by the layers that contain it.

    If a model has two heads for a task, or two StreamFeatures, the names start with their paths
    instead.

    Levels are named as in `gate_weights`. If the names do not all agree, levels of blocks without
    a given name, such as `ple_block_1`, are matched in order, and so are all levels if the two
    models have no given name in common. Stacked and copied experts are equivalent. Gates are left
    out in levels with another `gate_reads`, and heads with another `standardize`. Other layers are
    matched by name: name them, and the layers inside them. A layer of this package, such as a
    SharedBottomBlock, needs no name if each model has only one of its class. Optimizers and gate
    statistics are not copied.

    A task's predictions do not change if no new weights affect them. In levels with a shared gate,
    the experts of a new task affect the other tasks: the new columns of W give these experts a
    weight in the shared stream. The outputs of the next levels change until training adapts them.

    Args:
        source: A built model or layer with trained weights.
        target: A built model or layer, changed in place.

    Returns:
        A `Transfer` with the names of weights that were copied, are new, or were left out.

    Raises:
        TypeError: If either is not a Keras model or layer.
        ValueError: If either is not built, is quantized, or contains two weights with the same
            name. If an expert or gate has the same name but other shapes. Then nothing is copied.

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
    for argument, model in (("source", source), ("target", target)):
        check_built(model, argument)
    levels = _match_levels(_built_levels(source), _built_levels(target))
    of_source, of_target = (
        named_slices(model, of_model) for model, of_model in zip((source, target), levels)
    )
    of_levels = slices_of_levels(levels[1])
    left_out = {name: "not in the target" for name in of_source if name not in of_target}
    left_out |= _gates_of_another_input(*levels)
    left_out |= _heads_of_another_unit(source, target, of_source)
    copied = []
    for name in [name for name in of_target if name in of_source and name not in left_out]:
        difference = shape_difference(of_source[name], of_target[name])
        if not difference:
            copied.append(name)
            continue
        if name in of_levels:
            raise ValueError(
                "source and target must have equal shapes for experts and gates with the same "
                f"name. Received: {name!r} with {difference}"
            )
        left_out[name] = difference
    copy_slices([pair for name in copied for pair in zip(of_source[name], of_target[name])])
    for layer in find_layers(target, keras.layers.Normalization):
        layer.finalize_state()  # updates the copies that the layer keeps of its weights
    new = [name for name in of_target if name not in of_source]
    return Transfer(tuple(copied), tuple(new), left_out)


def _heads_of_another_unit(
    source: keras.Layer, target: keras.Layer, of_source: WeightSlices
) -> dict[str, str]:
    """Return the source's heads, without towers, with another `standardize` than the target's."""
    of_target = {head.task: head.standardize for head in find_layers(target, RegressionHead)}
    return {
        name: f"standardize={head.standardize} in the source, {not head.standardize} in the target"
        for head in find_layers(source, RegressionHead)
        if of_target.get(head.task, head.standardize) != head.standardize
        for name, slices in of_source.items()
        if name.endswith("/head") and any(slices[0][0] is weight for weight in head.weights)
    }


def _built_levels(model: keras.Layer) -> Levels:
    """Return the levels by key, without those that the model never calls."""
    return {key: block for key, block in find_levels(model).items() if block.built}


def _match_levels(source: Levels, target: Levels) -> tuple[Levels, Levels]:
    """Return the levels of both, with equal keys for levels that match.

    Given names match. Names that Keras chose depend on the layers that were created before, so
    their levels match in order, unless all names agree. So do all levels if the models have no
    given name in common.
    """
    if set(source) == set(target):
        return source, target
    in_order = [
        [key for key in levels if AUTOMATIC_KEY.fullmatch(key)] for levels in (source, target)
    ]
    if set(source) & set(target) <= set(in_order[0]):
        in_order = [list(source), list(target)]
    keys = dict(zip(*in_order))
    unmatched = {key: f"{key} (source)" for key in in_order[0] if key in target}
    return {keys.get(key, unmatched.get(key, key)): x for key, x in source.items()}, target


def _gates_of_another_input(source: Levels, target: Levels) -> dict[str, str]:
    """Return the source's weights of gates that read another input than in the target."""
    return {
        f"{level}/{name}": f"gate_reads={block.gate_reads!r} in the source, "
        f"{target[level].gate_reads!r} in the target"
        for level, block in source.items()
        if level in target and block.gate_reads != target[level].gate_reads
        for name in gate_slices(block)
    }
