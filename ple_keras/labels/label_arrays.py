"""Checks of arrays of labels, before they are trained on."""

import warnings

import keras
import numpy as np

from ple_keras._keras.internals import is_of_keras
from ple_keras._typing import LossLike, Tensor
from ple_keras.labels.alignment import check_dtype, check_shape
from ple_keras.labels.missing_label import holds


def label_width(loss: LossLike, units: int) -> int | None:
    """The length of a label's last axis; None for a loss that isn't Keras's, which may differ."""
    loss = keras.losses.get(loss)
    known = type(loss) if isinstance(loss, keras.Loss) else loss
    if not (is_of_keras(known) or str(getattr(known, "__module__", "")).startswith("ple_keras.")):
        return None
    name = known.__name__.lower().replace("_", "")
    if "ctc" in name:
        return None
    takes_index = ("sparse", "circle", "categoricalgeneralized")
    return 1 if any(word in name for word in takes_index) else units


def check_array(
    labels: Tensor,
    task: str,
    missing_label: float,
    shape: tuple[int | None, ...],
    width: int | None,
) -> np.ndarray:
    """The labels that aren't missing, `(labels, width)`.

    Args:
        labels: What was given for labels.
        task: The task's name, for messages.
        missing_label: As `MaskedLoss` has it.
        shape: The prediction's; None is an unknown length.
        width: As `label_width` has it.

    Raises:
        TypeError: if `labels` are no numbers.
        ValueError: if their shape is wrong, or one is infinite.

    Warns:
        UserWarning: if all are missing.
    """
    argument = f"y[{task!r}]"
    array = np.asarray(labels)
    dtype = check_dtype(array, argument)
    check_shape(array.shape, shape, width, argument)
    if array.ndim < len(shape):
        array = array[..., None]
    missing = np.isnan(array)
    if "float" in dtype and not (np.isnan(missing_label) or holds(dtype, missing_label)):
        raise ValueError(
            f"{argument} must have a dtype that can hold the missing_label, {missing_label}. "
            f"Received: {argument}.dtype={dtype}"
        )
    if holds(dtype, missing_label):
        missing |= array == array.dtype.type(missing_label)
    present: np.ndarray = array[~missing.any(axis=-1)]
    if not len(present):
        warnings.warn(f"{argument} holds no label at all: the task is not trained", stacklevel=4)
    _refuse(present, ~np.isfinite(present), task, "be finite or missing")
    return present


def check_probabilities(labels: np.ndarray, task: str) -> None:
    """Refuse labels outside [0, 1]."""
    _refuse(labels, (labels < 0) | (labels > 1), task, "lie in [0, 1] or be missing")


def check_class_indices(labels: np.ndarray, task: str, num_classes: int) -> None:
    """Refuse labels that are not 0, 1, ..., num_classes - 1."""
    wrong = (labels < 0) | (labels >= num_classes) | (labels != np.floor(labels))
    _refuse(labels, wrong, task, f"be class indices from 0 to {num_classes - 1} or be missing")


def _refuse(labels: np.ndarray, wrong: np.ndarray, task: str, rule: str) -> None:
    if wrong.any():
        found = np.unique(labels[wrong])
        shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"y[{task!r}] must {rule}; {np.count_nonzero(wrong)} are not. "
            f"Received: y[{task!r}]=[..., {shown}]"
        )
