"""Experts that start from one trained network."""

import random

import keras
import numpy as np

from ple_keras._checks import check_int, check_not_negative
from ple_keras.layers._level.expert_bank import WeightSlice
from ple_keras.layers._level.weight_slices import expert_slices
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.transfer._copying import check_built, copy_slices, shape_difference


def start_experts(
    block: keras.Layer, network: keras.Layer, noise: float = 0.01, seed: int | None = None
) -> None:
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
        check_built(layer, argument)
    of_network: list[WeightSlice] = [(weight, ()) for weight in network.weights]
    rng = np.random.default_rng(seed)
    pairs: list[tuple[WeightSlice, WeightSlice]] = []
    for expert, parts in expert_slices(block).items():
        if difference := shape_difference(of_network, parts):
            raise ValueError(
                f"network must have the weights of one expert, but {expert!r} differs: "
                f"{difference}. Received: network={network!r}"
            )
        pairs += zip(of_network, parts)
    copy_slices(pairs, lambda variable, values: values + _noise(rng, noise, variable, values))


def _noise(
    rng: np.random.Generator, noise: float, variable: keras.Variable, values: np.ndarray
) -> np.ndarray | float:
    if not variable.trainable:
        return 0.0
    scale = noise * float(np.sqrt(np.mean(np.square(values, dtype="float64"))))
    return rng.normal(scale=scale, size=values.shape)
