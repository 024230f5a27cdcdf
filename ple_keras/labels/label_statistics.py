"""Statistics of the labels of all tasks, read once before training."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ple_keras._checks import short_repr
from ple_keras._typing import Nested, TaskName
from ple_keras.labels.label_arrays import label_batches


class LabelStatistics:
    """Number, mean and standard deviation of labels, `(labels, width)`, from their batches.

    Batches are merged as in Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979.

    Attributes:
        rows: The number of rows, with or without a label.
        labels: The number of labels in each column.
        mean: The mean of each column.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.labels: Any = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0  # the sum of the squared distances to the mean

    def add(self, present: np.ndarray, rows: int) -> None:
        """Add a batch: labels, of which single numbers may be NaN, of a number of rows."""
        values = present.astype("float64")
        count = (~np.isnan(values)).sum(axis=0)
        mean = np.nansum(values, axis=0) / np.maximum(count, 1)
        total = np.maximum(self.labels + count, 1)
        distance = mean - self.mean
        self._squares = self._squares + np.nansum((values - mean) ** 2, axis=0)
        self._squares = self._squares + distance**2 * self.labels * count / total
        self.mean = self.mean + distance * count / total
        self.labels = self.labels + count
        self.rows += rows

    @property
    def share(self) -> float:
        """The number of labels divided by the number of rows."""
        return float(np.mean(self.labels) / self.rows)

    @property
    def deviation(self) -> Any:
        """The standard deviation of each column."""
        return np.sqrt(self._squares / np.maximum(self.labels, 1))


def read_labels(
    y: Nested, heads: Mapping[TaskName, Any], steps: int | None
) -> dict[TaskName, LabelStatistics]:
    """Return the statistics of each task's labels; see `TaskHeads.adapt`."""
    statistics = {task: LabelStatistics() for task in heads}
    for labels in label_batches(y, [*heads], steps, sys.maxsize):
        for task, head in heads.items():
            present, is_labeled = head._present_labels(labels[task])
            statistics[task].add(present, is_labeled.size)
    empty = [task for task in heads if not statistics[task].rows]
    if empty:
        raise ValueError(f"y must have rows for each task. Received: y={short_repr(y)}")
    return statistics
