"""Rows of frames of pandas and polars, and of lists of dicts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ple_keras._checks import short_repr
from ple_keras.columns.columns import Rows, column_values


def check_frame(frame: Rows, argument: str) -> None:
    """Check that rows are a frame with rows."""
    if not hasattr(frame, "columns") or not hasattr(frame, "__len__"):  # such as a LazyFrame
        raise TypeError(
            f"{argument} must be a frame of pandas or polars. "
            f"Received: {argument}={short_repr(frame)}"
        )
    if not len(frame):
        raise ValueError(f"{argument} must have at least one row. Received: no row")


def take_rows(frame: Rows, rows: np.ndarray) -> Rows:
    """Return some rows of a frame."""
    taken: Any = getattr(frame, "iloc", frame)
    return taken[rows]


def like_rows(rows: Rows, values: Mapping[str, np.ndarray]) -> Any:
    """Return columns as a frame of the same kind, or as a list of dicts."""
    if not hasattr(rows, "columns"):
        lists = {name: each.tolist() for name, each in values.items()}
        return [dict(zip(lists, row)) for row in zip(*lists.values())]
    frame = next(each for each in type(rows).__mro__ if each.__name__ == "DataFrame")
    index = {"index": rows.index} if hasattr(rows, "index") else {}
    return frame(dict(values), **index)


def column_numbers(frame: Rows, name: str) -> np.ndarray:
    """Return a column as numbers, with NaN for missing ones."""
    values = column_values(frame, name)
    try:
        return np.array(values, "float64")
    except (TypeError, ValueError):
        wrong = [value for value in values if not isinstance(value, int | float | None)]
        raise TypeError(
            f"{name} must have numbers. Received: {name}={short_repr(wrong[0])}"
        ) from None
