"""Checks of labels before training."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from ple_keras._checks import check_by_task, check_keys, warn_user
from ple_keras._keras.batches import (
    DEFAULT_STEPS,
    first_batches,
    is_dataset,
    naming_batches,
    refuse_steps,
)
from ple_keras._keras.names import stable_name, to_snake_case
from ple_keras._typing import LossLike, Nested, TaskName, Tensor
from ple_keras.labels.alignment import check_shape, to_number_array
from ple_keras.labels.sample_space import can_represent

# Losses of Keras, by the labels that they take:
CLASS_INDICES = {"sparse_categorical_crossentropy", "categorical_generalized_cross_entropy"}
PROBABILITIES = {"binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy"}
PROBABILITIES |= {"categorical_focal_crossentropy", "categorical_hinge", "kl_divergence"}
PROBABILITIES |= {"dice", "tversky"}
RANGES = (
    (PROBABILITIES, 0, 1, "lie in [0, 1]"),
    ({"hinge", "squared_hinge"}, -1, 1, "lie in [-1, 1]"),
    ({"poisson", "mean_squared_logarithmic_error"}, 0, np.inf, "be at least 0"),  # logarithms
)
NOT_ZERO = {"mean_absolute_percentage_error"}  # divides by the label
# Losses that grow with the scale of the labels:
ERRORS = {"mean_squared_error", "mean_absolute_error", "huber", "log_cosh"}
# Losses of a label of several numbers that are the means of the losses of its numbers:
OF_ELEMENTS = {"binary_crossentropy", "binary_focal_crossentropy", "hinge", "squared_hinge"}
OF_ELEMENTS |= {"poisson", "mean_squared_logarithmic_error", "mean_absolute_percentage_error"}
OF_ELEMENTS |= ERRORS
USUAL_DEVIATION = (0.1, 10.0)  # of their labels


class ChecksLabels(Protocol):
    """A head, whose class this subpackage does not import."""

    def check_labels(self, labels: Tensor) -> None:
        """Check an array of labels."""


def check_labels(y: Nested, heads: Mapping[TaskName, ChecksLabels], steps: int | None) -> None:
    """Check the labels of all tasks; see `TaskHeads.check_labels`."""
    batches = list(label_batches(y, [*heads], steps, DEFAULT_STEPS))
    if not is_dataset(y):
        _check_arrays(batches[0], heads)
        return
    where = f"batches 1 to {len(batches)}" if batches[1:] else "batch 1"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with naming_batches(where):
            joined = {task: join_rows([labels[task] for labels in batches]) for task in heads}
            _check_arrays(joined, heads)
    for warning in caught:
        warn_user(f"In {where}: {warning.message}")


def label_batches(
    y: Any, tasks: list[TaskName], steps: int | None, default: int
) -> Iterator[Mapping[TaskName, Any]]:
    """Yield labels by task: arrays whole, or the first batches of a dataset.

    Args:
        y: The labels, or batches of `(x, y)`.
        tasks: The tasks.
        steps: The number of batches; None for `default`.
        default: The default number.
    """
    if not is_dataset(y):
        refuse_steps(steps, "y")
        check_keys(check_by_task(y, tasks, "y"), tasks, "y")
        yield y
        return
    batches = first_batches(y, default if steps is None else steps, "y")
    for number, (_, labels) in enumerate(batches, start=1):
        with naming_batches(f"batch {number}"):
            check_keys(check_by_task(labels, tasks, "y"), tasks, "y")
        yield labels


def _check_arrays(y: Any, heads: Mapping[TaskName, ChecksLabels]) -> None:
    for task, head in heads.items():
        head.check_labels(y[task])
    rows = {task: len(labels) for task, labels in y.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(
            f"y must have the same number of rows for all tasks. Received: rows={rows}"
        )


def join_rows(arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenate labels. Shorter sequences get missing labels at the end."""
    ends = np.max([array.shape[1:] for array in arrays], axis=0)
    if any(array.shape[1:] != tuple(ends) for array in arrays):
        pads = [[(0, 0), *((0, n - m) for n, m in zip(ends, x.shape[1:]))] for x in arrays]
        padded = (x.astype("float64") for x in arrays)
        arrays = [np.pad(x, p, constant_values=np.nan) for x, p in zip(padded, pads)]
    return np.concatenate(arrays)


def label_width(loss: LossLike, units: int) -> int | None:
    """Return the length of a label's last axis; None if unknown, as for a loss not of Keras."""
    name = loss_name(loss)
    if name in ("", "ctc"):
        return None
    return 1 if name in CLASS_INDICES | {"circle"} else units


def is_mean_of_numbers(loss: LossLike) -> bool:
    """Return whether a loss is the mean of the losses of the numbers of a label."""
    return loss_name(loss) in OF_ELEMENTS and getattr(loss, "axis", -1) == -1


def depends_on_unit(loss: LossLike) -> bool:
    """Return whether a loss of Keras grows with the scale of the labels."""
    return loss_name(loss) in ERRORS


def loss_name(loss: LossLike) -> str:
    """Return the name of the function of a loss that is Keras's own; "" for other losses."""
    loss = keras.losses.get(loss)
    known = type(loss) if isinstance(loss, keras.Loss) else loss
    name = getattr(known, "__name__", "")
    return to_snake_case(name) if getattr(keras.losses, name, None) is known else ""


def present_labels(
    labels: Tensor,
    task: str,
    missing_label: float,
    shape: tuple[int | None, ...],
    width: int | None,
    by_element: bool = False,
) -> tuple[np.ndarray, int]:
    """Return the labels that are not missing, `(labels, width)`, and the number of rows.

    Args:
        labels: An array of labels.
        task: The task's name, for messages.
        missing_label: As for `MaskedLoss`.
        shape: The shape of the predictions; None is an unknown length.
        width: As returned by `label_width`.
        by_element: Whether single numbers of a label may be missing. They are NaN in the result.

    Raises:
        TypeError: If `labels` are not numbers.
        ValueError: If their shape is wrong, one is infinite, or their dtype can't represent
            `missing_label`.
    """
    argument = f"y[{task!r}]"
    array = to_number_array(labels, argument)
    dtype = str(array.dtype)
    check_shape(array.shape, shape, width, argument)
    if array.ndim < len(shape):
        array = array[..., None]
    if "float" in dtype and not (np.isnan(missing_label) or can_represent(dtype, missing_label)):
        raise ValueError(
            f"{argument} must have a dtype that represents missing_label={missing_label} exactly. "
            f"Received: {argument}.dtype={dtype}"
        )
    missing = is_missing(array, missing_label)
    if by_element and missing.any():
        array = np.where(missing, np.nan, array)
    is_gone = missing.all(axis=-1) if by_element else missing.any(axis=-1)
    present: np.ndarray = array[~is_gone]
    _check_all_valid(present, np.isinf(present), task, "be finite or missing")
    return present, is_gone.size


def warn_of_constant_labels(present: np.ndarray, task: str) -> None:
    """Warn if all labels are missing, or all others are equal."""
    argument = f"y[{task!r}]"
    if not len(present):
        warn_user(f"{argument} has no labels, so the task is not trained")
    if len(present) > 1 and _is_constant(present):
        label = present[0].tolist() if present.shape[-1] > 1 else present.flat[0]
        warn_user(
            f"{argument} is constant, so there is nothing to learn: all {len(present)} labels "
            f"are {label}"
        )


def _is_constant(labels: np.ndarray) -> bool:
    """Return whether each column has one value at most, apart from NaN."""
    low, high = np.fmin.reduce(labels), np.fmax.reduce(labels)
    return bool((np.isnan(low) | (low == high)).all())


def is_missing(labels: np.ndarray, missing_label: float) -> np.ndarray:
    """Return True where a number of a label is NaN or `missing_label`."""
    missing: np.ndarray = np.isnan(labels)
    if can_represent(str(labels.dtype), missing_label):
        missing |= labels == labels.dtype.type(missing_label)
    return missing


def check_probabilities(labels: np.ndarray, task: str) -> None:
    """Check that labels lie in [0, 1]."""
    _check_all_valid(labels, (labels < 0) | (labels > 1), task, "lie in [0, 1] or be missing")


def check_relevances(labels: np.ndarray, task: str) -> None:
    """Check that labels are at least 0."""
    _check_all_valid(labels, labels < 0, task, "be at least 0 or missing")


def check_class_indices(labels: np.ndarray, task: str, num_classes: int) -> None:
    """Check that labels are 0, 1, ..., num_classes - 1."""
    wrong = (labels < 0) | (labels >= num_classes) | (labels != np.floor(labels))
    _check_all_valid(
        labels, wrong, task, f"be class indices from 0 to {num_classes - 1} or missing"
    )


def check_for_loss(labels: np.ndarray, task: str, loss: LossLike, units: int) -> None:
    """Check that labels have values that a loss of Keras accepts.

    Args:
        labels: The labels that are not missing, `(labels, width)`.
        task: The task's name, for messages.
        loss: The loss of the task.
        units: The width of the predictions.
    """
    name = loss_name(loss)
    of_loss = f"for the loss {stable_name(loss)!r} or be missing"
    for losses, low, high, rule in RANGES:
        if name in losses:
            wrong = (labels < low) | (labels > high)
            _check_all_valid(labels, wrong, task, f"{rule} {of_loss}")
    if name in CLASS_INDICES:
        check_class_indices(labels, task, units)
    elif name in NOT_ZERO:
        _check_all_valid(labels, labels == 0, task, f"not be 0 {of_loss}")
    elif name in ERRORS:
        _warn_of_scale(labels, task, stable_name(loss))


def _warn_of_scale(labels: np.ndarray, task: str, loss: str) -> None:
    """Warn if a squared or absolute error is a poor loss for labels."""
    if not len(labels) or _is_constant(labels):
        return
    if np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        warn_user(f"y[{task!r}] has the labels 0 and 1 only. Use a BinaryHead for probabilities")
        return
    deviation = max(np.std(column[~np.isnan(column)]) for column in labels.T.astype("float64"))
    low, high = USUAL_DEVIATION
    if low <= deviation <= high:
        return
    problem = "dominates those of other tasks" if deviation > high else "vanishes next to others"
    warn_user(
        f"y[{task!r}] has a standard deviation of {deviation:.3g}, so its loss, {loss!r}, "
        f"{problem}. Use RegressionHead({task!r}, standardize=True) and call `adapt` of the "
        "TaskHeads with the labels of training"
    )


def _check_all_valid(labels: np.ndarray, wrong: np.ndarray, task: str, rule: str) -> None:
    if wrong.any():
        found = np.unique(labels[wrong])
        shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        remedy = ""
        if len(found) == 1 and _may_mark_missing_labels(found[0]):
            remedy = (
                f" If {found[0]} marks missing labels, create the head with "
                f"missing_label={found[0]}."
            )
        raise ValueError(
            f"y[{task!r}] must {rule}; invalid: {np.count_nonzero(wrong)}.{remedy} "
            f"Received: y[{task!r}]=[..., {shown}]"
        )


def _may_mark_missing_labels(value: float) -> bool:
    """Return whether a value is an integer that heads take as `missing_label`, such as -1."""
    return bool(np.isfinite(value)) and value == int(value) and -(2**31) <= value < 2**31
