"""Copying of slices of variables."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.walking import find_layers
from ple_keras._typing import WeightSlice


def check_built(layer: keras.Layer, argument: str) -> None:
    """Check that an argument is a Keras layer that is built and not quantized."""
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
    quantized = [child.path for child in layers if child.quantization_mode and child.path]
    if quantized:
        raise ValueError(
            f"{argument} must not be quantized: transfer weights before quantization. "
            f"Received: {argument}={layer!r} with {quantized[0]!r} quantized"
        )


def shape_difference(source: list[WeightSlice], target: list[WeightSlice]) -> str:
    """Return the shapes of both lists of slices as text; "" if they are equal."""
    first, second = [[_slice_shape(item) for item in slices] for slices in (source, target)]
    return "" if first == second else f"shapes {first} in the source, {second} in the target"


def _slice_shape(weight_slice: WeightSlice) -> tuple[int, ...]:
    variable, index = weight_slice
    return np.broadcast_to(0, variable.shape)[index].shape


Change = Callable[[Any, np.ndarray], np.ndarray]  # of the target variable and the values


def copy_slices(
    pairs: Iterable[tuple[WeightSlice, WeightSlice]], change: Change = lambda _, values: values
) -> None:
    """Assign the values of the first slice of each pair, after `change`, to the second."""
    arrays: dict[int, tuple[Any, np.ndarray]] = {}
    for (source, source_index), (target, target_index) in pairs:
        if id(target) not in arrays:
            arrays[id(target)] = target, np.array(ops.convert_to_numpy(target))
        values = ops.convert_to_numpy(source)[source_index]
        arrays[id(target)][1][target_index] = change(target, values)
    for target, array in arrays.values():
        target.assign(array)
