"""Figures on the predictions of a task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from ple_keras._keras.arrays import to_numpy
from ple_keras._keras.internals import mask_of
from ple_keras._typing import ByName, Tensor
from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead
from ple_keras.labels.label_arrays import is_missing


@dataclass(frozen=True)
class PredictionUse:
    """Predictions of a task over the examples.

    Attributes:
        deviation: The standard deviation over the examples; of several numbers, the largest. NaN
            with one example.
        labels: The number of labelled examples, if labels were given and the task is binary;
            else 0.
        calibration: The sum of the predictions divided by the sum of these labels; NaN without
            positives.
    """

    deviation: float
    labels: int
    calibration: float


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


def prediction_use(head: Head, predictions: np.ndarray, labels: Tensor | None) -> PredictionUse:
    """Return the figures of predictions `(positions, units)`, without non-finite ones."""
    predictions = predictions.astype("float64")
    is_finite = np.isfinite(predictions).all(axis=-1)
    deviation = math.nan
    if is_finite.sum() > 1:
        deviation = float(predictions[is_finite].std(axis=0).max())
    if labels is None or not isinstance(head, BinaryHead | ProductHead):
        return PredictionUse(deviation, 0, math.nan)
    labels = to_numpy(labels).ravel()
    kept = is_finite & ~is_missing(labels, head.missing_label)
    positives = labels[kept].sum(dtype="float64")
    calibration = float(predictions[kept].sum() / positives) if positives else math.nan
    return PredictionUse(deviation, int(kept.sum()), calibration)
