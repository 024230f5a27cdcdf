"""Operations on tensors, their dtypes, and their traces."""

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from importlib import import_module

import keras
import numpy as np
from keras import ops

from ple_keras._typing import FixedDTypes, Nested, Tensor

HALF_DTYPES = ("float16", "bfloat16")


def to_numpy(value: Tensor) -> np.ndarray:
    """Convert an array, a tensor or a list to a NumPy array."""
    if isinstance(value, np.ndarray):
        return value
    return keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else np.asarray(value)


def at_least_float32(x: Tensor) -> Tensor:
    """Cast `x` to float32 if its dtype has fewer bits."""
    is_half = keras.backend.standardize_dtype(x.dtype) in HALF_DTYPES
    return ops.cast(x, "float32") if is_half else x


# Keras's functions turn numbers into tensors. PyTorch copies each of them to the device.


def fill(x: Tensor, mask: Tensor, number: float) -> Tensor:
    """Return `x` with a number where a mask, which broadcasts to the shape of `x`, is True."""
    if keras.backend.backend() == "torch":
        return x.masked_fill(mask, number)
    return ops.where(mask, ops.cast(number, x.dtype), x)


def fill_nan(x: Tensor, number: float) -> Tensor:
    """Return `x` with a number in place of NaN."""
    if keras.backend.backend() == "torch":
        return x.nan_to_num(number, math.inf, -math.inf)
    return fill(x, x != x, number)


def fill_finite(x: Tensor, mask: Tensor, number: float) -> Tensor:
    """Return `fill` of finite numbers. On PyTorch, products are ten times faster on a CPU."""
    if keras.backend.backend() == "torch":
        is_filled = ops.cast(mask, x.dtype)
        return x * (1 - is_filled) + number * is_filled
    return fill(x, mask, number)


def binary_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return Keras's cross-entropy of each probability, in the shape of the labels.

    On PyTorch, it is three times faster on a CPU from logits.
    """
    if keras.backend.backend() == "torch":
        y_pred = y_pred.logit(keras.config.epsilon())
        return ops.binary_crossentropy(y_true, y_pred, from_logits=True)
    return ops.binary_crossentropy(y_true, y_pred)


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Return `x` with numbers of at least `low` and at most `high`, if they are not None."""
    if keras.backend.backend() == "torch":
        return x.clamp(low, high)
    x = x if low is None else ops.maximum(x, low)
    return x if high is None else ops.minimum(x, high)


def segment_sum(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Return the sum of the values of each segment, `(count, ...)`.

    On PyTorch, Keras's function also reads a number from the device.
    """
    if keras.backend.backend() == "torch":
        return values.new_zeros((count, *values.shape[1:])).index_add_(0, segments, values)
    return ops.segment_sum(values, segments, count)


def add_to_segments(sums: Tensor, values: Tensor, segments: Tensor) -> Tensor:
    """Return `sums`, with the sum of the values of each segment added to its number."""
    if keras.backend.backend() == "torch":  # Keras would create a tensor of all segments
        return sums.index_add(0, segments, values)
    return sums + ops.segment_sum(values, segments, sums.shape[0])


def all_valid(masks: Iterable[Tensor]) -> Tensor:
    """Return the conjunction of masks. None means that all positions are valid."""
    distinct = {id(mask): mask for mask in masks if mask is not None}.values()
    return reduce(ops.logical_and, distinct) if distinct else None


def flatten_positions(values: Tensor, mask: Tensor | None, masked: float) -> Tensor:
    """Return values as `(positions, D)`, with the number `masked` at masked positions."""
    if mask is not None:
        values = ops.where(ops.expand_dims(mask, -1), values, masked)
    return ops.reshape(values, (-1, values.shape[-1]))


def dtype_name(array: Tensor) -> str:
    """Return the name of a dtype, even if Keras does not know it, such as NumPy's strings."""
    try:
        return str(keras.backend.standardize_dtype(array.dtype))
    except ValueError:
        return str(array.dtype)


def is_number(dtype: str) -> bool:
    """Return whether a dtype represents real numbers or bools."""
    return dtype.startswith(("bool", "int", "uint", "float", "bfloat")) and dtype != "boolean"


def fixed_dtypes(inputs: Nested, known: FixedDTypes = None) -> FixedDTypes:
    """Return the dtype of a tensor, or of each tensor of a dict; None for floats.

    Keras casts floats to the compute dtype of the layer that reads them.

    Args:
        inputs: The tensor, or dict of tensors.
        known: The previous result. A float keeps its known dtype, since Keras passes floats for all
            columns when it builds a model from shapes.
    """
    if isinstance(inputs, Mapping):
        by_key = known if isinstance(known, Mapping) else {}
        return {key: fixed_dtypes(value, by_key.get(key)) for key, value in inputs.items()}
    is_symbolic = isinstance(inputs, keras.KerasTensor)
    tensor: Tensor = inputs if is_symbolic else ops.convert_to_tensor(inputs)
    dtype: str = keras.backend.standardize_dtype(tensor.dtype)
    return known if keras.backend.is_float_dtype(dtype) else dtype


def is_constant_in_jax_trace(variable: keras.Variable, values: Iterable[Tensor]) -> bool:
    """Return whether a variable is a constant of the JAX trace that computes `values`.

    Its gradient is then 0, a compiled program keeps its value, and an assigned value is lost or
    breaks later calls. In the `keras.StatelessScope` of Keras's own steps, its value is a tracer.
    The variable must have autocast=False.
    """
    return any(map(is_jax_tracer, values)) and not is_jax_tracer(variable.value)


def is_jax_tracer(value: Tensor) -> bool:
    """Return whether a tensor belongs to a trace of JAX."""
    if keras.backend.backend() != "jax":
        return False
    jax = import_module("jax")
    return isinstance(value, jax.core.Tracer)
