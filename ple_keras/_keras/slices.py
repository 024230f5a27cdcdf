"""Slices of variables, such as the weights of one expert in a stack."""

from collections.abc import Iterable

import keras
import numpy as np

from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import WeightSlice


def whole_slices(variables: Iterable[keras.Variable]) -> list[WeightSlice]:
    """Return variables as slices of all their numbers."""
    return [(variable, ()) for variable in variables]


def read_slice(weight_slice: WeightSlice) -> np.ndarray:
    """Return a copy of a variable, or of a slice of it."""
    variable, index = weight_slice
    return np.array(to_numpy(variable.value)[index])


def assign_slices(pairs: Iterable[tuple[WeightSlice, np.ndarray]]) -> None:
    """Assign variables and slices of variables."""
    for (variable, index), value in pairs:
        whole = read_slice((variable, ()))
        whole[index] = value
        variable.assign(whole)
