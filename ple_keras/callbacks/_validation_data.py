"""Validation data of callbacks that predict it."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_by_task, short_repr
from ple_keras._typing import Nested, TaskName
from ple_keras.labels.alignment import to_number_array


def unpack_arrays(
    validation_data: tuple[Nested, ...],
) -> tuple[Any, np.ndarray | dict[TaskName, np.ndarray]]:
    """Return x, and y as an array or arrays by task.

    Raises:
        TypeError: If they are not arrays, or the labels are not numbers.
    """
    parts = validation_data if isinstance(validation_data, tuple | list) else ()
    leaves = keras.tree.flatten(parts[:1])
    if len(parts) not in (2, 3) or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise TypeError(
            "validation_data must be a tuple (x, y) or (x, y, sample_weight) of arrays. "
            f"Received: validation_data={short_repr(validation_data)}"
        )
    x, y = parts[:2]
    if not isinstance(y, Mapping):
        if hasattr(y, "columns") and len(y.columns) > 1:
            check_by_task(y, list(y.columns), "validation_data[1]")
        return x, to_number_array(y, "validation_data[1]")
    return x, {
        task: to_number_array(labels, f"validation_data[1][{task!r}]") for task, labels in y.items()
    }


def number_of_rows(x: Nested, y: np.ndarray | Mapping[TaskName, np.ndarray]) -> int:
    """Return the number of rows of all arrays, if it is one number and not 0."""
    labels = list(y.values()) if isinstance(y, Mapping) else [y]
    rows = {tuple(array.shape[:1]) for array in [*labels, *keras.tree.flatten(x)]}
    if len(rows) != 1 or rows & {(), (0,)}:
        raise ValueError(
            "validation_data must have arrays with the same number of rows, at least 1. "
            f"Received: rows={sorted(rows)}"
        )
    return int(rows.pop()[0])
