"""Initialization of experts from one trained network."""

import random

import keras
import numpy as np

from ple_keras._checks import check_int, check_not_negative
from ple_keras._typing import WeightSlice
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.transfer._slices import check_built, copy_slices, expert_slices, shape_difference


def start_experts(
    block: keras.Layer, network: keras.Layer, noise: float = 0.01, seed: int | None = None
) -> None:
    """Initialize every expert of a level with the weights of one trained network.

    The network may be the hidden layers of a model trained for a single task. Without noise, all
    experts are equal, and with equal gates they stay equal.

    Args:
        block: A built CGCBlock; its gates do not change.
        network: A built layer, such as an ExpertBlock or a Sequential of Dense layers, with the
            weights of one expert, in the same order and shapes.
        noise: The standard deviation of the noise added to each trainable weight, relative to the
            root mean square of the weight's array.
        seed: The seed of the noise, at least 0. By default, it follows
            `keras.utils.set_random_seed`.

    Raises:
        TypeError: If `block` is not a CGCBlock, `network` not a layer, `noise` not a number, or
            `seed` not an integer.
        ValueError: If either layer is not built or is quantized, the shapes differ, or `noise` or
            `seed` is negative.

    Example:

    >>> network = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(4, "relu")])
    >>> _ = network(keras.ops.ones((1, 16)))  # or trained in a model
    >>> cgc = CGCBlock(["click", "buy"], [8, 4])
    >>> _ = cgc(keras.ops.ones((1, 16)))
    >>> start_experts(cgc, network)
    """
    if not isinstance(block, CGCBlock):
        raise TypeError(f"block must be a CGCBlock. Received: block={block!r}")
    noise = check_not_negative(noise, "noise")
    seed = random.getrandbits(32) if seed is None else check_int(seed, "seed", minimum=0)
    for argument, layer in (("block", block), ("network", network)):
        check_built(layer, argument)
    of_network: list[WeightSlice] = [(weight, ()) for weight in network.weights]
    rng = np.random.default_rng(seed)
    pairs: list[tuple[WeightSlice, WeightSlice]] = []
    for expert, slices in expert_slices(block).items():
        if difference := shape_difference(of_network, slices):
            raise ValueError(
                f"network must have the weight shapes of every expert, but {expert!r} differs: "
                f"{difference}. Received: network={network!r}"
            )
        pairs += zip(of_network, slices)
    copy_slices(pairs, lambda variable, values: values + _noise(rng, noise, variable, values))


def _noise(
    rng: np.random.Generator, noise: float, variable: keras.Variable, values: np.ndarray
) -> np.ndarray | float:
    if not variable.trainable:
        return 0.0
    scale = noise * float(np.sqrt(np.mean(np.square(values, dtype="float64"))))
    return rng.normal(scale=scale, size=values.shape)
