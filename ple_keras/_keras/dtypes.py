"""Dtypes of half precision."""

import keras
from keras import ops

from ple_keras._typing import Tensor

HALF_DTYPES = ("float16", "bfloat16")


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, cast up where its dtype has fewer bits than float32."""
    is_half = keras.backend.standardize_dtype(x.dtype) in HALF_DTYPES
    return ops.cast(x, "float32") if is_half else x
