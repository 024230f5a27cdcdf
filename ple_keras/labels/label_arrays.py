"""Checks and statistics of labels before training."""

import sys
from collections.abc import Iterable, Iterator, Mapping

import keras
import numpy as np

from ple_keras._checks import check_by_task, check_keys, warn_user
from ple_keras._keras.batches import first_batches, is_dataset
from ple_keras._typing import ByName, HasLabels, Nested, TaskName, Tensor
from ple_keras.labels.sample_space import check_dtype


def check_task_labels(y: Nested, heads: Mapping[TaskName, HasLabels], steps: int | None) -> None:
    """Check the labels of all tasks (see `TaskHeads.check_labels`)."""
    batches = list(label_batches(y, [*heads], steps))
    labels = batches[0]
    if is_dataset(y):
        labels = {task: join_rows([batch[task] for batch in batches]) for task in heads}
    for task, head in heads.items():
        if hasattr(labels[task], "dtype"):  # `fit` refuses nullable dtypes of pandas
            check_dtype(labels[task], f"y[{task!r}]")
        head.check_labels(labels[task])


def label_batches(y: Nested, tasks: list[TaskName], steps: int | None) -> Iterator[ByName]:
    """Yield dicts of labels: whole arrays, or the first batches of a dataset.

    Args:
        y: The labels, or batches of `(x, y)`.
        tasks: The tasks.
        steps: The number of batches; None for 100.
    """
    for _, labels in first_batches(y, steps, "y") if is_dataset(y) else [(None, y)]:
        by_task = check_by_task(labels, tasks, "y")
        check_keys(by_task, tasks, "y")
        yield by_task


def task_labels(y: Nested, tasks: Iterable[TaskName]) -> ByName:
    """Return the labels of tasks. For one task, `y` can be the array itself, as for `fit`."""
    tasks = list(tasks)
    is_array = len(tasks) == 1 and hasattr(y, "shape")
    labels = check_by_task({tasks[0]: y} if is_array else y, tasks, "y")
    if missing := [task for task in tasks if labels.get(task) is None]:
        raise ValueError(
            f"y must have labels for each of {tasks}; missing: {missing}. "
            f"Received: y={{{', '.join(map(repr, labels))}}}"
        )
    for task in tasks:
        check_dtype(labels[task], f"y[{task!r}]")
    return labels


def join_rows(arrays: list[np.ndarray]) -> Tensor:
    """Concatenate labels. Shorter sequences get missing labels at the end."""
    if len({array.shape[1:] for array in arrays}) > 1:
        rows = [row for array in arrays for row in array]
        return keras.utils.pad_sequences(rows, dtype="float64", padding="post", value=np.nan)
    return np.concatenate(arrays)


def warn_if_constant(present: np.ndarray, task: str) -> None:
    """Warn if all labels are missing, or all present labels are equal."""
    if not len(present):
        warn_user(f"y[{task!r}] has no labels, so the task is not trained")
    elif len(present) > 1 and is_constant(present):
        warn_user(
            f"y[{task!r}] is constant, so there is nothing to learn: all {len(present)} labels "
            f"are {present[0].tolist()}"
        )


def is_constant(labels: np.ndarray) -> bool:
    """Return whether each column has at most one value, apart from NaN."""
    low, high = np.fmin.reduce(labels), np.fmax.reduce(labels)
    return bool((np.isnan(low) | (low == high)).all())


def check_probabilities(labels: np.ndarray, task: str) -> None:
    """Check that labels lie in [0, 1]."""
    check_values(labels, (labels < 0) | (labels > 1), task, "lie in [0, 1]")


def check_class_indices(labels: np.ndarray, task: str, num_classes: int) -> None:
    """Check that labels are 0, 1, ..., num_classes - 1."""
    wrong = (labels < 0) | (labels >= num_classes) | (labels != np.floor(labels))
    check_values(labels, wrong, task, f"be class indices from 0 to {num_classes - 1}")


def check_values(labels: np.ndarray, wrong: np.ndarray, task: str, rule: str) -> None:
    """Raise an error if some labels are wrong, with the rule that they violate."""
    if not wrong.any():
        return
    found = np.unique(labels[wrong])
    shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
    first, remedy = found[0], ""
    if len(found) == 1 and first < 0 and float(first).is_integer():
        remedy = f" If {first} marks missing labels, create the head with missing_label={first}."
    raise ValueError(
        f"y[{task!r}] must {rule} or be missing; invalid: {np.count_nonzero(wrong)}.{remedy} "
        f"Received: y[{task!r}]=[..., {shown}]"
    )


class LabelStatistics:
    """Number, mean and standard deviation of labels, `(labels, width)`, from batches.

    Batches are merged as in Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979.

    Attributes:
        rows: The number of rows, with or without a label.
        labels: The number of labels in each column.
        mean: The mean of each column.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.labels = np.zeros(1, int)
        self.mean = np.zeros(1)
        self._squares = np.zeros(1)  # the sum of the squared distances to the mean

    def add(self, present: np.ndarray, rows: int) -> None:
        """Add a batch of rows, with labels whose single numbers can be NaN."""
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
    def deviation(self) -> Tensor:
        """The standard deviation of each column."""
        return np.sqrt(self._squares / np.maximum(self.labels, 1))


def read_labels(
    y: Nested, heads: Mapping[TaskName, HasLabels], steps: int | None
) -> dict[TaskName, LabelStatistics]:
    """Return the statistics of each task's labels (see `TaskHeads.adapt`)."""
    statistics = {task: LabelStatistics() for task in heads}
    for labels in label_batches(y, [*heads], sys.maxsize if steps is None else steps):
        for task, head in heads.items():
            present, is_labeled = head._present_labels(labels[task])
            statistics[task].add(present, is_labeled.size)
    return statistics
