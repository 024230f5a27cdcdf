"""Checks and statistics of labels before training."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_keys, short_repr, warn_user
from ple_keras._keras.batches import first_batches, is_dataset
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import ByName, HasLabels, Nested, TaskName, Tensor
from ple_keras.labels.sample_space import align_weights, check_dtype, to_number_array


def check_task_labels(y: Nested, heads: Mapping[TaskName, HasLabels], steps: int | None) -> None:
    """Check the labels of all tasks (see `TaskHeads.check_labels`)."""
    batches = [labels for labels, _ in label_batches(y, heads, steps)]
    labels = batches[0]
    if is_dataset(y):
        labels = {task: join_rows([batch[task] for batch in batches]) for task in heads}
    for task, head in heads.items():
        if hasattr(labels[task], "dtype"):  # `fit` refuses nullable dtypes of pandas
            check_dtype(labels[task], f"y[{task!r}]")
        head.check_labels(labels[task])


def label_batches(
    y: Nested,
    heads: Mapping[TaskName, HasLabels],
    steps: int | None,
    sample_weight: Nested = None,
) -> Iterator[tuple[ByName, Nested]]:
    """Yield dicts of labels with their weights: whole arrays, or the first batches of a dataset.

    Args:
        y: The labels, or batches of `(x, y)` or `(x, y, sample_weight)`.
        heads: The heads of the tasks.
        steps: The number of batches; None for 100.
        sample_weight: The weights of arrays.
    """
    tasks, arrays = [*heads], [(None, read_targets(y, heads), sample_weight)]
    batches = first_batches(y, steps, "y", sample_weight) if is_dataset(y) else arrays
    for _, labels, weights in batches:
        if len(tasks) == 1 and hasattr(labels, "shape"):
            labels = {tasks[0]: labels}
        yield check_keys(labels, tasks, "y"), weights


def read_targets(y: Nested, heads: Mapping[TaskName, HasLabels]) -> Nested:
    """Return labels, with an array of the columns of `targets` in place of each data frame.

    Args:
        y: Labels in any form. For one task, it can be the data frame itself.
        heads: The heads of the tasks.

    Raises:
        ValueError: If a data frame lacks a target.
    """
    if len(heads) == 1 and hasattr(y, "columns"):
        y = dict.fromkeys(heads, y)
    if not isinstance(y, Mapping):
        return y
    read = dict(y)
    for task, head in heads.items():
        frame: Any = y.get(task)
        if head.targets and hasattr(frame, "columns"):
            check_keys(dict.fromkeys(frame.columns), head.targets, f"y[{task!r}]", has_only=False)
            read[task] = to_numpy(frame[list(head.targets)])
    return read


def labeled_weights(
    sample_weight: Nested, tasks: Iterable[TaskName], task: TaskName, is_labeled: np.ndarray
) -> np.ndarray:
    """Return the sample weights of the labeled examples of a task, which are 1 by default.

    Args:
        sample_weight: `{task: weights}`, weights for all tasks, or None.
        tasks: The tasks that can have weights.
        task: The task.
        is_labeled: Which examples have a label, `(...)`.

    Raises:
        TypeError: If weights are not numbers.
        ValueError: If a task is unknown, the shape of weights does not match, or a weight of a
            labeled example is negative or not finite.
    """
    if isinstance(sample_weight, Mapping):
        check_keys(sample_weight, [*tasks], "sample_weight", has_all=False)
        sample_weight = sample_weight.get(task)
    if sample_weight is None:
        return np.ones(np.count_nonzero(is_labeled))
    array = to_number_array(sample_weight, f"sample_weight[{task!r}]")
    shape = align_weights(np.zeros(array.shape), is_labeled.shape, f" of {task!r}").shape
    aligned = array.reshape(tuple(shape))  # a NumPy array, since JAX has 32 bits
    weights: np.ndarray = np.broadcast_to(aligned, is_labeled.shape)[is_labeled].astype("float64")
    wrong = weights[~(np.isfinite(weights) & (weights >= 0))]
    if len(wrong):
        raise ValueError(
            f"sample_weight[{task!r}] must be finite and at least 0. Received: weight={wrong[0]}"
        )
    return weights


def task_labels(y: Nested, tasks: Iterable[TaskName]) -> ByName:
    """Return the labels of tasks. For one task, `y` can be the array itself, as for `fit`."""
    tasks = list(tasks)
    is_array = len(tasks) == 1 and hasattr(y, "shape")
    labels = check_keys({tasks[0]: y} if is_array else y, tasks, "y", has_only=False)
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


def warn_if_targets_are_constant(present: np.ndarray, task: str, targets: Sequence[str]) -> None:
    """Warn of the targets without a label, or with equal labels, among `(labels, targets)`."""
    low, high = np.fmin.reduce(present), np.fmax.reduce(present)
    problems = {"no label": np.isnan(low), "equal labels": low == high}
    found = []
    for problem, has_problem in problems.items():
        names = [name for name, has_it in zip(targets, has_problem) if has_it]
        if names:
            found.append(f"{len(names)} with {problem}: {short_repr(names)}")
    if found:
        warn_user(
            f"y[{task!r}] has {len(targets)} targets, and there is nothing to learn for "
            f"{'; '.join(found)}"
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
    """Number, weighted mean and deviation of labels, `(labels, width)`, from batches.

    Batches are merged as in Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979.

    Attributes:
        rows: The number of rows, with or without a label.
        labels: The number of labels in each column.
        mean: The mean of each column.
        weight: The sum of the sample weights of the labels of each column.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.labels = np.zeros(1, int)
        self.mean = np.zeros(1)
        self.weight = np.zeros(1)
        self._squares = np.zeros(1)  # the sum of the squared distances to the mean

    def add(self, present: np.ndarray, rows: int, weights: np.ndarray) -> None:
        """Add a batch of rows, with labels whose single numbers can be NaN, and their weights."""
        values = present.astype("float64")
        weights = weights[:, None] * ~np.isnan(values)
        weight = weights.sum(axis=0)
        mean = np.nansum(values * weights, axis=0) / _divisor(weight)
        total = _divisor(self.weight + weight)
        distance = mean - self.mean
        self._squares = self._squares + np.nansum((values - mean) ** 2 * weights, axis=0)
        self._squares = self._squares + distance**2 * self.weight * weight / total
        self.mean = self.mean + distance * weight / total
        self.labels = self.labels + (~np.isnan(values)).sum(axis=0)
        self.weight = self.weight + weight
        self.rows += rows

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each column."""
        return np.sqrt(self._squares / _divisor(self.weight))


def _divisor(weight: np.ndarray) -> np.ndarray:
    return np.where(weight > 0, weight, 1.0)


def read_labels(
    y: Nested, heads: Mapping[TaskName, HasLabels], steps: int | None, sample_weight: Nested = None
) -> dict[TaskName, LabelStatistics]:
    """Return the statistics of each task's labels (see `TaskHeads.adapt`)."""
    statistics = {task: LabelStatistics() for task in heads}
    steps = sys.maxsize if steps is None else steps
    for labels, weights in label_batches(y, heads, steps, sample_weight):
        for task, head in heads.items():
            present, is_labeled = head._present_labels(labels[task])
            known = labeled_weights(weights, heads, task, is_labeled)
            statistics[task].add(present, is_labeled.size, known)
    return statistics
