"""Warm starts: weights of a trained model in another one, by the names of what they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras

from ple_keras._keras.walking import find_layers
from ple_keras.inspection.levels import find_levels
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.transfer._copying import check_built, copy_slices, shape_difference
from ple_keras.transfer._named_slices import named_slices, slices_of_levels

Levels = Mapping[str, CGCBlock]


@dataclass(frozen=True)
class Transfer:
    """The result of `transfer_weights`; printed, it is three lists.

    Attributes:
        copied: The names of what both models have: the target's now equals the source's.
        new: The names of what the source does not have; the target's stays as it was.
        left_out: The names of what the target can't take, each with the reason.

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
        return "\n".join(
            f"{title} ({len(names)}): {', '.join(names) or '-'}"
            for title, names in (
                ("copied", self.copied),
                ("new", self.new),
                ("left out", reasons),
            )
        )


def transfer_weights(source: keras.Layer, target: keras.Layer) -> Transfer:
    """Copy the weights that two models have in common, whatever their tasks and their order.

    To add a task to a trained model, or take one away: build the model with the other tasks,
    transfer, and train on. What belongs together is found by names:

        ple/0/click/expert_0                an expert, by its level and name
        ple/0/gate/shared/click/expert_0    what a gate says of one expert, a column of its W
        ple/0/gate/click/gate_block         a gate's own network
        click/tower, click/head             a head's tower, and its other weights
        click/loss_weight                   what a schedule or training made of a loss's weight
        embedding/embeddings                any other weight, by the layers around it

    Where one model has two heads for a task, their paths stand in place of the task.

    Levels are those of `gate_weights`; where the two models call theirs differently, the first is
    matched with the first, and so on. Stacked experts and copied ones are alike. Other layers
    need equal names, so name them and those inside them. Optimizers and statistics of gates are
    left alone.

    A task's predictions stay what they were where nothing new reaches them. A new task's experts
    do reach the others, in levels with a shared gate: it gives each new expert a share that its
    new column of W decides. The next levels see the difference, until training has dealt with it.

    Args:
        source: A built model or layer with trained weights.
        target: A built model or layer, changed in place.

    Returns:
        A `Transfer`: the names of what was copied, what is new, and what was left out.

    Raises:
        TypeError: if either is no Keras model or layer.
        ValueError: if either isn't built, is quantized, or holds two weights of one name, or an
            expert or a gate of the same name has weights of other shapes; then nothing was copied.

    Example:

    >>> def make(tasks):
    ...     inputs = keras.Input((16,))
    ...     return keras.Model(inputs, PLEBlock(1, tasks, [8], name="ple")(inputs))
    >>> trained, larger = make(["click"]), make(["buy", "click"])
    >>> print(transfer_weights(trained, larger))
    copied (4): ple/0/click/expert_0, ple/0/shared/expert_0, ple/0/gate/click/click/expert_0, \
ple/0/gate/click/shared/expert_0
    new (3): ple/0/buy/expert_0, ple/0/gate/buy/buy/expert_0, ple/0/gate/buy/shared/expert_0
    left out (0): -
    """
    for argument, model in (("source", source), ("target", target)):
        check_built(model, argument)
    levels = _matched(_built_levels(source), _built_levels(target))
    ours, theirs = (named_slices(model, of) for model, of in zip((source, target), levels))
    of_levels = slices_of_levels(levels[1])
    left_out = {name: "the target has none" for name in ours if name not in theirs}
    copied = []
    for name in [name for name in theirs if name in ours]:
        difference = shape_difference(ours[name], theirs[name])
        if not difference:
            copied.append(name)
            continue
        if name in of_levels:
            raise ValueError(
                "source and target must have experts and gates of the same widths where these "
                f"have the same names. Received: {name!r} with {difference}"
            )
        left_out[name] = difference
    copy_slices([pair for name in copied for pair in zip(ours[name], theirs[name])])
    _settle_normalization(target)
    new = [name for name in theirs if name not in ours]
    return Transfer(tuple(copied), tuple(new), left_out)


def _built_levels(model: keras.Layer) -> Levels:
    """The levels by key, without those that the model never calls."""
    return {key: block for key, block in find_levels(model).items() if block.built}


def _matched(source: Levels, target: Levels) -> tuple[Levels, Levels]:
    """The levels of both, by the target's keys where the two call them differently."""
    if set(source) & set(target):
        return source, target
    keys = dict(zip(source, target))
    return {keys.get(key, key): block for key, block in source.items()}, target


def _settle_normalization(model: keras.Layer) -> None:
    """Let Normalization layers go by their weights, of which they keep copies."""
    for layer in find_layers(model, keras.layers.Normalization):
        layer.finalize_state()
