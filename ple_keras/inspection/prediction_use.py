"""Figures on the predictions of a task, and warnings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from ple_keras._keras.internals import mask_of
from ple_keras._typing import ByName, Tensor
from ple_keras.heads.head import BinaryHead, Head
from ple_keras.heads.product_head import ProductHead
from ple_keras.labels.alignment import check_dtype
from ple_keras.labels.label_arrays import is_missing

# Thresholds of the warnings:
CONSTANT_DEVIATION = 1e-6  # of predictions
CALIBRATION = (0.8, 1.25)  # over at least
CALIBRATION_LABELS = 100
EXPECTED_POSITIVES = 5  # of which the chance to see none is below 1 %


@dataclass(frozen=True)
class PredictionUse:
    """Predictions of a task over the examples.

    Attributes:
        deviation: The standard deviation over the examples; of several numbers, the largest. NaN
            with one example.
        labels: The number of labelled examples with a finite prediction; 0 if no labels were given,
            or not one for each prediction.
        calibration: For a binary task, the sum of the predictions divided by the sum of these
            labels; NaN without positives, and for other tasks.
        expected_positives: For a binary task, the sum of the predictions of these examples; NaN for
            other tasks, and without labels.
    """

    deviation: float
    labels: int
    calibration: float
    expected_positives: float


def predictions_of(outputs: Tensor | ByName, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Return the predictions of tasks as `(positions, units)`, with NaN at masked positions.

    Args:
        outputs: The outputs of a model.
        tasks: The tasks of its heads. Those that are not in the outputs are left out.
    """
    if not isinstance(outputs, Mapping):
        outputs = {tasks[0]: outputs} if len(tasks) == 1 and ops.is_tensor(outputs) else {}
    predictions = {}
    for task in tasks:
        if task in outputs:
            of_task, mask = outputs[task], mask_of(outputs[task])
            if mask is not None:
                of_task = ops.where(ops.expand_dims(mask, -1), of_task, float("nan"))
            predictions[task] = ops.reshape(of_task, (-1, of_task.shape[-1]))
    return predictions


def labels_by_task(batches: Sequence[Any], heads: Mapping[str, Head]) -> dict[str, np.ndarray]:
    """Return the labels of tasks as `(labels,)`.

    Args:
        batches: The labels of each batch: by task, an array for a single task, or None.
        heads: The heads by task. Those without labels in a batch are left out.
    """
    found = {}
    for task in heads:
        labels = [_labels_of(y, task, is_only_task=len(heads) == 1) for y in batches]
        if not any(array is None for array in labels):
            found[task] = np.concatenate([np.ravel(array) for array in labels])
    return found


def _labels_of(y: Any, task: str, is_only_task: bool) -> Any:
    if isinstance(y, Mapping):
        return y.get(task)
    return y if is_only_task and hasattr(y, "shape") else None


def prediction_use(head: Head, predictions: np.ndarray, labels: np.ndarray | None) -> PredictionUse:
    """Return the figures of predictions `(positions, units)`, without non-finite ones.

    Raises:
        TypeError: If labels are not numbers.
        ValueError: If the task is binary, and there is not one label for each prediction.
    """
    predictions = predictions.astype("float64")
    is_finite = np.isfinite(predictions).all(axis=-1)
    deviation = math.nan
    if is_finite.sum() > 1:
        deviation = float(predictions[is_finite].std(axis=0).max())
    if labels is None:
        return PredictionUse(deviation, 0, math.nan, math.nan)
    check_dtype(labels, f"y[{head.task!r}]")
    is_binary = isinstance(head, BinaryHead | ProductHead)
    count = len(predictions)
    if len(labels) not in (count, count * head.units):
        if not is_binary:  # the model is trained with a loss of its own
            return PredictionUse(deviation, 0, math.nan, math.nan)
        raise ValueError(
            f"y[{head.task!r}] must have one label for each of {count} predictions. "
            f"Received: y[{head.task!r}].shape={labels.shape}"
        )
    by_prediction = labels.reshape(count, len(labels) // max(count, 1))
    kept = is_finite & ~_has_missing(by_prediction, head)
    if not is_binary:
        return PredictionUse(deviation, int(kept.sum()), math.nan, math.nan)
    positives = labels[kept].sum(dtype="float64")
    expected = float(predictions[kept].sum())
    calibration = float(expected / positives) if positives else math.nan
    return PredictionUse(deviation, int(kept.sum()), calibration, expected)


def prediction_warnings(task: str, use: PredictionUse) -> Iterator[str]:
    """Yield the warnings about the predictions of a task, each with remedies."""
    if use.deviation < CONSTANT_DEVIATION:
        yield (
            f"{task}: the predictions are constant, with a standard deviation of "
            f"{use.deviation:.0e}. Check the scale of the numbers in x, the labels and the "
            "dead units, or try a lower learning rate."
        )
    low, high = CALIBRATION
    is_off = use.calibration < low or use.calibration > high
    if is_off and use.labels >= CALIBRATION_LABELS:
        yield (
            f"{task}: the sum of the predictions is {use.calibration:.2f} times that of "
            f"{use.labels} labels. If the head has a pos_weight, divide the odds by it. Otherwise, "
            "check that missing labels are NaN, and that x is like the training data."
        )
    has_no_positive = math.isnan(use.calibration) and use.labels >= CALIBRATION_LABELS
    if has_no_positive and use.expected_positives >= EXPECTED_POSITIVES:
        yield (
            f"{task}: none of {use.labels} labels is positive, but the predictions expect "
            f"{use.expected_positives:.1f}. Check the labels, and that missing labels are NaN."
        )


def _has_missing(labels: np.ndarray, head: Head) -> np.ndarray:
    """Return True where a label `(labels, width)` is missing, or of an ignored class."""
    missing = is_missing(labels, head.missing_label)
    ignored = getattr(head.loss, "ignore_class", None)
    if ignored is not None:
        missing |= labels == ignored
    return np.asarray(missing.any(axis=-1))
