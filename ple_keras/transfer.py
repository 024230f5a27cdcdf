"""Warm starts: weights of a trained model in another one, by the names of what they belong to."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._levels import find_levels
from ple_keras._parts import Part, level_parts, named_parts
from ple_keras._validation import check_int, check_not_negative
from ple_keras.cgc import CGCBlock

Levels = Mapping[str, CGCBlock]


@dataclass(frozen=True)
class Transfer:
    """What `transfer_weights` did.

    Attributes:
        copied: What both models have: the target's now equals the source's.
        new: What the source does not have; the target's stays as it was.
        left_out: What the source has and the target can't take, with the reason.
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


def transfer_weights(source: Any, target: Any) -> Transfer:
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
        _check_built(model, argument)
    levels = _matched(_built_levels(source), _built_levels(target))
    ours, theirs = (named_parts(model, of) for model, of in zip((source, target), levels))
    of_levels = level_parts(levels[1])
    left_out = {name: "the target has none" for name in ours if name not in theirs}
    copied = []
    for name in [name for name in theirs if name in ours]:
        difference = _difference(ours[name], theirs[name])
        if not difference:
            copied.append(name)
            continue
        if name in of_levels:
            raise ValueError(
                "source and target must have experts and gates of the same widths where these "
                f"have the same names. Received: {name!r} with {difference}"
            )
        left_out[name] = difference
    _copy([pair for name in copied for pair in zip(ours[name], theirs[name])])
    _settle_normalization(target)
    new = [name for name in theirs if name not in ours]
    return Transfer(tuple(copied), tuple(new), left_out)


def start_experts(block: Any, network: Any, noise: float = 0.01, seed: int | None = None) -> None:
    """Let every expert of a level start from one trained network.

    Such as the hidden layers of a model that was trained for a single task. Without noise all
    experts would be equal, and with equal gates stay so.

    Args:
        block: A built CGCBlock; its gates are left alone.
        network: A built layer, such as an ExpertBlock or a Sequential of Dense layers, with the
            weights of one expert, in the same order and shapes.
        noise: The standard deviation of what is added to each trainable weight, as a share of the
            root mean square of the array that it lies in.
        seed: Of the noise, at least 0; by default it follows `keras.utils.set_random_seed`.

    Raises:
        TypeError: if `block` is no CGCBlock, `network` no layer, `noise` no number, or `seed` no
            integer.
        ValueError: if either isn't built or is quantized, the shapes differ, or `noise` or `seed`
            is negative.

    Example:

    >>> network = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(4, "relu")])
    >>> _ = network(keras.ops.ones((1, 16)))  # or trained, within a model
    >>> cgc = CGCBlock(["click", "buy"], [8, 4])
    >>> _ = cgc(keras.ops.ones((1, 16)))
    >>> start_experts(cgc, network)
    """
    if not isinstance(block, CGCBlock):
        raise TypeError(f"block must be a CGCBlock. Received: block={block!r}")
    noise = check_not_negative(noise, "noise")
    seed = random.getrandbits(32) if seed is None else check_int(seed, "seed", minimum=0)
    for argument, layer in (("block", block), ("network", network)):
        _check_built(layer, argument)
    of_network: list[Part] = [(weight, ()) for weight in network.weights]
    rng = np.random.default_rng(seed)
    pairs: list[tuple[Part, Part]] = []
    for expert, parts in block._expert_parts().items():
        if difference := _difference(of_network, parts):
            raise ValueError(
                f"network must have the weights of one expert, but {expert!r} differs: "
                f"{difference}. Received: network={network!r}"
            )
        pairs += zip(of_network, parts)
    _copy(pairs, lambda variable, values: values + _noise(rng, noise, variable, values))


def _check_built(layer: Any, argument: str) -> None:
    if not isinstance(layer, keras.Layer):
        raise TypeError(
            f"{argument} must be a Keras model or layer. Received: {argument}={layer!r}"
        )
    if not layer.built:
        raise ValueError(
            f"{argument} must be built: call it on data first. "
            f"Received: {argument}={layer!r}, built=False"
        )
    quantized = [inside for inside in layer._flatten_layers() if inside.quantization_mode]
    if quantized:
        raise ValueError(
            f"{argument} must not be quantized: copy the weights before. "
            f"Received: {argument}={layer!r} with {quantized[0].path!r} quantized"
        )


def _built_levels(model: Any) -> Levels:
    """The levels by key, without those that the model never calls."""
    return {key: block for key, block in find_levels(model).items() if block.built}


def _matched(source: Levels, target: Levels) -> tuple[Levels, Levels]:
    """The levels of both, by the target's keys where the two call them differently."""
    if set(source) & set(target):
        return source, target
    keys = dict(zip(source, target))
    return {keys.get(key, key): block for key, block in source.items()}, target


def _difference(source: list[Part], target: list[Part]) -> str:
    """What keeps one from being copied onto the other; "" if nothing does."""
    here, there = [[_shape(part) for part in parts] for parts in (source, target)]
    return "" if here == there else f"shapes {here} in the source, {there} in the target"


def _shape(part: Part) -> tuple[int, ...]:
    variable, where = part
    return np.broadcast_to(0, variable.shape)[where].shape


def _settle_normalization(model: Any) -> None:
    """Let Normalization layers go by their weights, of which they keep copies."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


Change = Callable[[Any, np.ndarray], np.ndarray]


def _copy(pairs: Iterable[tuple[Part, Part]], change: Change = lambda _, values: values) -> None:
    """Give each second part the values of the first, changed."""
    arrays: dict[int, tuple[Any, np.ndarray]] = {}
    for (source, there), (target, here) in pairs:
        if id(target) not in arrays:
            arrays[id(target)] = target, np.array(ops.convert_to_numpy(target))
        arrays[id(target)][1][here] = change(target, ops.convert_to_numpy(source)[there])
    for target, array in arrays.values():
        target.assign(array)


def _noise(
    rng: np.random.Generator, noise: float, variable: Any, values: np.ndarray
) -> np.ndarray | float:
    if not variable.trainable:
        return 0.0
    scale = noise * float(np.sqrt(np.mean(np.square(values, dtype="float64"))))
    return rng.normal(scale=scale, size=values.shape)
