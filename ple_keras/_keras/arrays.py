"""Conversion to NumPy arrays."""

import keras
import numpy as np

from ple_keras._typing import Tensor


def to_numpy(value: Tensor) -> np.ndarray:
    """Convert an array, a tensor or a list to a NumPy array."""
    if isinstance(value, np.ndarray):
        return value
    return keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else np.asarray(value)
