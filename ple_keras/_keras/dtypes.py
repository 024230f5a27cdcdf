"""Half-precision dtypes, dtypes of numbers, and dtypes that Keras does not cast."""

from collections.abc import Mapping

import keras
from keras import ops

from ple_keras._typing import FixedDTypes, Nested, Tensor

HALF_DTYPES = ("float16", "bfloat16")


def at_least_float32(x: Tensor) -> Tensor:
    """Cast `x` to float32 if its dtype has fewer bits."""
    is_half = keras.backend.standardize_dtype(x.dtype) in HALF_DTYPES
    return ops.cast(x, "float32") if is_half else x


def dtype_name(array: Tensor) -> str:
    """Return the name of a dtype, which may be unknown to Keras, such as one of NumPy's strings."""
    try:
        return str(keras.backend.standardize_dtype(array.dtype))
    except ValueError:
        return str(array.dtype)


def is_number(dtype: str) -> bool:
    """Return whether a dtype is one of real numbers or bools."""
    return dtype.startswith(("bool", "int", "uint", "float", "bfloat"))


def fixed_dtypes(inputs: Nested, known: FixedDTypes = None) -> FixedDTypes:
    """Return the dtype of a tensor, or of each tensor of a dict; None for floats.

    Keras casts floats to the compute dtype of the layer that they are passed to.

    Args:
        inputs: The tensor, or dict of tensors.
        known: What the function returned before. A float keeps its known dtype, since Keras passes
            floats for all columns when it builds a model from shapes.
    """
    if isinstance(inputs, Mapping):
        by_key = known if isinstance(known, Mapping) else {}
        return {key: fixed_dtypes(value, by_key.get(key)) for key, value in inputs.items()}
    is_tensor = isinstance(inputs, keras.KerasTensor) or ops.is_tensor(inputs)
    tensor: Tensor = inputs if is_tensor else ops.convert_to_tensor(inputs)
    dtype: str = keras.backend.standardize_dtype(tensor.dtype)
    return known if keras.backend.is_float_dtype(dtype) else dtype
