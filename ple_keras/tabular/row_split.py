"""A split of the rows of a frame for training and validation."""

from datetime import datetime

import numpy as np

from ple_keras._checks import short_repr
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
        group: A column. All rows with the same value are on one side of the split. With `time`, the
            groups with the last times are the validation rows. A group with most rows is a training
            group.
        seed: The seed of the random order, or its generator.
    """
    count = len(frame)
    groups = value_ranks(frame, group) if group else np.arange(count)
    order = np.random.default_rng(seed).permutation(groups.max(initial=-1) + 1)  # group numbers
    if time:
        order[:] = 0
        np.maximum.at(order, groups, value_ranks(frame, time, is_time=True))
    sizes = np.bincount(groups)
    if group and 2 * sizes.max(initial=0) > count:
        order[sizes.argmax()] = -1
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


def check_names(**names: object) -> None:
    """Check that arguments are names of columns, or None."""
    for argument, name in names.items():
        if not isinstance(name, str | None):
            raise TypeError(
                f"{argument} must be the name of a column. `task_report` and `compare_predictions` "
                f"take an array, `groups`. Received: {argument}={short_repr(name)}"
            )


def value_ranks(frame: Rows, name: str, is_time: bool = False) -> np.ndarray:
    """Return the rank of each value among the different values of a column.

    Args:
        frame: The frame.
        name: The name of the column.
        is_time: Whether texts must be ISO dates, whose order they have.
    """
    values = column_values(frame, name)
    if missing := values.count(None):
        raise ValueError(
            f"{name} must have a value in each row. Received: {missing} missing values"
        )
    dtype = frame[name].dtype
    try:
        if getattr(dtype, "ordered", False) or str(dtype).startswith("Enum"):  # polars
            order = [*dtype.categories]
        else:
            parse = datetime.fromisoformat
            values = [parse(x) if is_time and isinstance(x, str) else x for x in values]
            order = sorted({*values})
        ranks = {value: rank for rank, value in enumerate(order)}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must have values of one kind that can be sorted: numbers, dates, ordered "
            f"categories or, as `time`, texts with ISO dates such as '2026-03-05'. Received: "
            f"{name} with {error}"
        ) from None
    return np.array([ranks[value] for value in values])
