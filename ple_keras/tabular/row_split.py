"""A split of the rows of a frame for training and validation."""

import numpy as np

from ple_keras.columns.columns import Rows, column_values


def split_rows(
    frame: Rows,
    share: float,
    time: str | None,
    group: str | None,
    seed: int | np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training rows, and of the validation rows.

    Args:
        frame: The frame.
        share: The share of the validation rows.
        time: A column: the validation rows have its last values; None for random rows.
        group: A column whose values have all their rows in one part. With `time`, the groups with
            the last times are the validation rows.
        seed: The seed of the random order, or its generator.
    """
    count = len(frame)
    groups = value_ranks(frame, group) if group else np.arange(count)
    order = np.random.default_rng(seed).permutation(groups.max(initial=-1) + 1)  # of the groups
    if time:
        order[:] = 0
        np.maximum.at(order, groups, value_ranks(frame, time))
    keys = order[groups]
    first = np.sort(keys)[int(count * (1 - share))]
    is_valid = keys >= first
    if is_valid.all():  # many rows have this time, or are in this group
        is_valid = keys > first
    if not is_valid.any():
        names = {name: value for name, value in (("time", time), ("group", group)) if value}
        raise ValueError(
            f"frame must have rows for training and for validation, with different values of "
            f"{names}. Received: {count} rows"
        )
    return np.flatnonzero(~is_valid), np.flatnonzero(is_valid)


def value_ranks(frame: Rows, name: str) -> np.ndarray:
    """Return the place of each value among the different values of a column."""
    values = column_values(frame, name)
    if missing := values.count(None):
        raise ValueError(
            f"{name} must have a value in each row, since it splits them. "
            f"Received: {missing} missing values"
        )
    dtype = frame[name].dtype
    try:
        order = dtype.categories if getattr(dtype, "ordered", False) else sorted({*values})
        ranks = {value: rank for rank, value in enumerate(order)}
    except TypeError as error:
        raise TypeError(f"{name} must have values with one order. Received: {error}") from None
    return np.array([ranks[value] for value in values])
