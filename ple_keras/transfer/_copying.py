"""Copying parts of variables."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.walking import find_layers
from ple_keras.layers._level.expert_bank import WeightSlice


def check_built(layer: keras.Layer, argument: str) -> None:
    """Refuse what is no layer, not built or quantized."""
    if not isinstance(layer, keras.Layer):
        raise TypeError(
            f"{argument} must be a Keras model or layer. Received: {argument}={layer!r}"
        )
    if not layer.built:
        raise ValueError(
            f"{argument} must be built: call it on data first. "
            f"Received: {argument}={layer!r}, built=False"
        )
    layers = find_layers(layer, keras.Layer)
    quantized = [inside.path for inside in layers if inside.quantization_mode and inside.path]
    if quantized:
        raise ValueError(
            f"{argument} must not be quantized: copy the weights before. "
            f"Received: {argument}={layer!r} with {quantized[0]!r} quantized"
        )


def shape_difference(source: list[WeightSlice], target: list[WeightSlice]) -> str:
    """What keeps one from being copied onto the other; "" if nothing does."""
    here, there = [[_slice_shape(part) for part in parts] for parts in (source, target)]
    return "" if here == there else f"shapes {here} in the source, {there} in the target"


def _slice_shape(part: WeightSlice) -> tuple[int, ...]:
    variable, where = part
    return np.broadcast_to(0, variable.shape)[where].shape


Change = Callable[[Any, np.ndarray], np.ndarray]


def copy_slices(
    pairs: Iterable[tuple[WeightSlice, WeightSlice]], change: Change = lambda _, values: values
) -> None:
    """Give each second part the values of the first, changed."""
    arrays: dict[int, tuple[Any, np.ndarray]] = {}
    for (source, there), (target, here) in pairs:
        if id(target) not in arrays:
            arrays[id(target)] = target, np.array(ops.convert_to_numpy(target))
        arrays[id(target)][1][here] = change(target, ops.convert_to_numpy(source)[there])
    for target, array in arrays.values():
        target.assign(array)
