"""The importance of columns, by permutations of their values."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ple_keras.columns.columns import BLOCKS, Columns
from ple_keras.inspection.report_text import cells, table, to_json

Arrays = dict[str, np.ndarray]
Losses = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Importance:
    """Importance of a column for a task.

    Attributes:
        increase: The increase of the relative loss if the values of the column are permuted.
        error: Its standard error, over rows and permutations.
    """

    increase: float
    error: float


class ImportanceReport(dict[str, dict[str, Importance]]):
    """Result of `TabularModel.importance`, `{task: {column: Importance}}`; prints as a table.

    The columns have the order of their mean over tasks, with the largest first.
    """

    def __str__(self) -> str:
        rows = [["column", *self]]
        for name in next(iter(self.values())):
            pairs = (cells(each[name], increase="+.4f", error=".4f") for each in self.values())
            rows.append([name, *map(" ± ".join, pairs)])
        return f"Increase of the relative loss by permuted columns, ± its error\n\n{table(rows)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as dicts and numbers, ready for JSON."""
        return dict(to_json(self))


def column_importance(
    columns: Columns, x: Arrays, losses: Losses, repeats: int, seed: int | None
) -> ImportanceReport:
    """Return the importance of each column.

    Args:
        columns: The columns.
        x: The encoded rows, with packed ids and numbers.
        losses: A function of such rows that returns the loss of each row by task, with NaN for rows
            that do not count.
        repeats: The number of permutations of each column.
        seed: Their seed.
    """
    rng, by_task = np.random.default_rng(seed), losses(x)
    before = np.stack([*by_task.values()])
    found = {}
    for name in columns.names:
        orders = [rng.permutation(before.shape[1]) for _ in range(repeats)]
        permuted = (losses(_permute(columns, x, name, order)) for order in orders)
        after = (np.stack([*each.values()]) for each in permuted)
        found[name] = _mean_increases(before, after, orders)
    names = sorted(found, key=lambda name: -sum(each.increase for each in found[name]))
    by_column = zip(*(found[name] for name in names))
    return ImportanceReport({t: dict(zip(names, each)) for t, each in zip(by_task, by_column)})


def _mean_increases(
    before: np.ndarray, after: Iterable[np.ndarray], orders: list[np.ndarray]
) -> list[Importance]:
    """Return the increase of the losses of each task, with its error.

    Each difference involves two rows: the permuted row, and the row that its value came from. Both
    count in the standard error.

    Args:
        before: The losses, `(tasks, rows)`.
        after: The losses with each order of the values of a column.
        orders: These orders.
    """
    tasks, rows = before.shape
    shares = 1 / (~np.isnan(before)).sum(axis=1, keepdims=True) / len(orders)
    increases, sums = np.zeros((tasks, 1)), np.zeros((rows, tasks))
    for losses, order in zip(after, orders):
        changes = losses - before
        mean = np.nanmean(changes, axis=1, keepdims=True)
        increases += mean / len(orders)
        deviations = (np.nan_to_num(changes - mean) * shares).T
        sums += deviations
        sums[order] += deviations
    scale = rows / (rows - 1) if rows > 1 else np.nan
    errors = np.sqrt(scale * (sums**2).sum(axis=0))
    return [*map(Importance, increases[:, 0].tolist(), errors.tolist())]


def _permute(columns: Columns, x: Arrays, name: str, order: np.ndarray) -> Arrays:
    """Return encoded rows in which the values of a column have another order."""
    for block, names in zip(BLOCKS, (columns.ids, columns.numbers)):
        if name in names:
            array, place = x[block].copy(), names.index(name)
            array[:, place] = array[order, place]
            return {**x, block: array}
    key = columns._input_names(packed=True)[name]
    return {**x, key: x[key][order]}
