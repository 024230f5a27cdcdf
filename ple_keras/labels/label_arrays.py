"""Checks of label arrays before training."""

import warnings
from collections.abc import Sequence

import keras
import numpy as np

from ple_keras._keras.internals import is_of_keras
from ple_keras._keras.names import stable_name
from ple_keras._typing import LossLike, Tensor
from ple_keras.labels.alignment import check_shape, to_number_array
from ple_keras.labels.missing_label import can_represent

# Parts of the names of losses, by the labels that they take:
CLASS_INDICES = ("sparse", "categoricalgeneralized")
NOT_NEGATIVE = ("poisson", "logarithmic")  # logarithms of labels
PROBABILITIES = ("crossentropy", "divergence", "dice", "tversky", "categoricalhinge")
SIGNS = ("hinge",)
NOT_ZERO = ("absolutepercentage",)  # divides by the label


def label_width(loss: LossLike, units: int) -> int | None:
    """Return the length of a label's last axis; None if unknown, as for a loss not of Keras."""
    name = _loss_name(loss)
    if not name or "ctc" in name:
        return None
    return 1 if _has_part(name, (*CLASS_INDICES, "circle")) else units


def _loss_name(loss: LossLike) -> str:
    """Return the name of a loss of Keras or this package, in lower case; "" for others."""
    loss = keras.losses.get(loss)
    known = type(loss) if isinstance(loss, keras.Loss) else loss
    if not (is_of_keras(known) or str(getattr(known, "__module__", "")).startswith("ple_keras.")):
        return ""
    return str(known.__name__).lower().replace("_", "")


def _has_part(name: str, parts: Sequence[str]) -> bool:
    return any(part in name for part in parts)


def check_array(
    labels: Tensor,
    task: str,
    missing_label: float,
    shape: tuple[int | None, ...],
    width: int | None,
) -> np.ndarray:
    """Return the labels that are not missing, `(labels, width)`.

    Args:
        labels: An array of labels.
        task: The task's name, for messages.
        missing_label: As for `MaskedLoss`.
        shape: The shape of the predictions; None is an unknown length.
        width: As returned by `label_width`.

    Raises:
        TypeError: If `labels` are not numbers.
        ValueError: If their shape is wrong, one is infinite, or their dtype can't represent
            `missing_label`.

    Warns:
        UserWarning: If all labels are missing.
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
    present: np.ndarray = array[~is_missing(array, missing_label).any(axis=-1)]
    if not len(present):
        warnings.warn(f"{argument} has no labels, so the task is not trained", stacklevel=4)
    _check_all_valid(present, ~np.isfinite(present), task, "be finite or missing")
    return present


def is_missing(labels: np.ndarray, missing_label: float) -> np.ndarray:
    """Return True where a number of a label is NaN or `missing_label`."""
    missing: np.ndarray = np.isnan(labels)
    if can_represent(str(labels.dtype), missing_label):
        missing |= labels == labels.dtype.type(missing_label)
    return missing


def check_probabilities(labels: np.ndarray, task: str) -> None:
    """Check that labels lie in [0, 1]."""
    _check_all_valid(labels, (labels < 0) | (labels > 1), task, "lie in [0, 1] or be missing")


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
    name = _loss_name(loss)
    if "ctc" in name:
        return
    of_loss = f"for the loss {stable_name(loss)!r} or be missing"
    if _has_part(name, CLASS_INDICES):
        check_class_indices(labels, task, units)
    elif _has_part(name, PROBABILITIES):
        wrong = (labels < 0) | (labels > 1)
        _check_all_valid(labels, wrong, task, f"lie in [0, 1] {of_loss}")
    elif _has_part(name, SIGNS):
        wrong = (labels < -1) | (labels > 1)
        _check_all_valid(labels, wrong, task, f"lie in [-1, 1] {of_loss}")
    elif _has_part(name, NOT_NEGATIVE):
        _check_all_valid(labels, labels < 0, task, f"be at least 0 {of_loss}")
    elif _has_part(name, NOT_ZERO):
        _check_all_valid(labels, labels == 0, task, f"not be 0 {of_loss}")


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
