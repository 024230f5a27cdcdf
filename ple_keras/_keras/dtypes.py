"""Half-precision dtypes."""

import keras
from keras import ops

from ple_keras._typing import Tensor

HALF_DTYPES = ("float16", "bfloat16")


def at_least_float32(x: Tensor) -> Tensor:
    """Cast `x` to float32 if its dtype has fewer bits."""
    is_half = keras.backend.standardize_dtype(x.dtype) in HALF_DTYPES
    return ops.cast(x, "float32") if is_half else x
