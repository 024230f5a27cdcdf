"""Figures on the labels and predictions of a task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ple_keras._keras.internals import mask_of
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import ByName, Tensor
from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.hedged_head import plain_head
from ple_keras.heads.multiclass_head import MulticlassHead
from ple_keras.heads.product_head import ProductHead
from ple_keras.heads.ranking_head import RankingHead
from ple_keras.inspection.gradient_conflict import HeadLoss, TaskLoss
from ple_keras.labels.alignment import check_dtype
from ple_keras.labels.label_arrays import is_mean_of_numbers, is_missing
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.losses.example_losses import MIN_PROBABILITY
from ple_keras.losses.masked_loss import MaskedLoss
from ple_keras.metrics.array_metrics import grouped_auc

ROUNDING = 1e-7  # of a probability near 1, in float32


@dataclass(frozen=True)
class TaskFigures:
    """Labels and predictions of a task over some examples.

    A figure that a task does not have is NaN. Of several numbers in a label or prediction, means
    are over all of them, and deviations are the largest.

    Attributes:
        labels: The number of labeled examples with a finite prediction; 0 if no labels were given,
            or not one for each prediction.
        label_share: The share of the examples that they are.
        label_mean: The mean label; of a binary task, the share of positives. NaN for classes.
        label_deviation: The standard deviation of the labels. NaN for classes.
        label_classes: Of a task with classes, the number of classes among the labels; else 0.
        prediction_mean: The mean prediction of all examples. NaN for classes.
        prediction_deviation: The standard deviation of the predictions. NaN with one example.
        expected_positives: Of a binary task, the sum of the predictions of labeled examples.
        loss: The unweighted loss over the labeled examples.
        auc: Of a binary task, the area under the ROC curve.
        accuracy: Of a task with classes, the share of the right ones.
        rmse: Of a regression, the root of the mean squared error, in units of the labels.
        relative_error: The error divided by that of the best constant prediction: of a binary
            task and of classes, the normalized entropy; of a regression, the mean squared error
            over the variance. 0 is best, and 1 means that nothing was learned.
        relative_error_deviation: The standard error of `relative_error`, over the examples.
        calibration: Of a binary task, the sum of the predictions of labeled examples divided by
            the sum of their labels.
    """

    labels: int = 0
    label_share: float = 0.0
    label_mean: float = math.nan
    label_deviation: float = math.nan
    label_classes: int = 0
    prediction_mean: float = math.nan
    prediction_deviation: float = math.nan
    expected_positives: float = math.nan
    loss: float = math.nan
    auc: float = math.nan
    accuracy: float = math.nan
    rmse: float = math.nan
    relative_error: float = math.nan
    relative_error_deviation: float = math.nan
    calibration: float = math.nan


def is_binary(head: Head) -> bool:
    """Return whether a head predicts the probability of a positive label."""
    return isinstance(plain_head(head), BinaryHead | ProductHead)


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


def labels_of_head(head: Head, labels: Tensor, predictions: np.ndarray) -> np.ndarray | None:
    """Return labels as `(positions, width)`; None if their number is that of no known loss.

    Args:
        head: The head of the task.
        labels: Labels in any shape.
        predictions: The predictions, `(positions, units)`; of lists, `(lists, items)`.

    Raises:
        TypeError: If labels are not numbers.
        ValueError: If the task is binary, and there is not one label for each prediction, or a
            label is neither a probability nor a class of the head.
    """
    check_dtype(labels, f"y[{head.task!r}]")
    count, size = len(predictions), int(np.size(labels))
    if size not in (count, predictions.size):
        if not is_binary(head):  # the model is trained with a loss of its own
            return None
        raise ValueError(
            f"y[{head.task!r}] must have one label for each of {count} predictions. "
            f"Received: y[{head.task!r}].shape={np.shape(labels)}"
        )
    by_position = np.reshape(labels, (count, size // max(count, 1)))
    present = by_position[~_has_missing(by_position, head)]
    if np.isinf(present).any():
        raise ValueError(
            f"y[{head.task!r}] must be finite or missing. "
            f"Received: y[{head.task!r}]=[..., {present[np.isinf(present)][0]}, ...]"
        )
    if is_binary(head) or isinstance(plain_head(head), MulticlassHead):
        head._check_values(present)
    return by_position


def task_figures(
    head: Head, loss: TaskLoss | None, predictions: np.ndarray, labels: np.ndarray | None
) -> TaskFigures:
    """Return the figures of predictions `(positions, units)`, without non-finite ones.

    Args:
        head: The head of the task.
        loss: The loss of the task; None if it is not trained.
        predictions: The predictions, with NaN at masked positions.
        labels: The labels from `labels_of_head`; None without labels.
    """
    head = plain_head(head)
    if isinstance(head, RankingHead):
        return _figures_of_lists(head, loss, predictions, labels)
    is_finite = np.isfinite(predictions).all(axis=-1)
    finite = predictions[is_finite].astype("float64")
    figures: dict[str, Any] = {}
    if len(finite) and not isinstance(head, MulticlassHead):
        figures["prediction_mean"] = float(finite.mean())
    if len(finite) > 1:
        figures["prediction_deviation"] = float(finite.std(axis=0).max())
    if labels is None:
        return TaskFigures(**figures)
    is_kept = is_finite & ~_has_missing(labels, head)
    figures["labels"] = int(is_kept.sum())
    figures["label_share"] = figures["labels"] / max(len(finite), 1)
    if not figures["labels"]:
        return TaskFigures(**figures)
    if loss is not None:
        figures["loss"] = _loss_value(loss, labels, predictions, is_kept)
    y, p = labels[is_kept].astype("float64"), predictions[is_kept].astype("float64")
    if is_binary(head):
        quality = _binary_quality(y[:, 0], p[:, 0])
    elif isinstance(head, MulticlassHead):
        quality = _class_quality(y, p)
    else:
        quality = _number_quality(np.ma.masked_array(y, is_missing(y, head.missing_label)), p)
    figures |= quality.figures
    mean = quality.errors.mean()
    if quality.of_constant > 0 and math.isfinite(mean):
        figures["relative_error"] = float(mean / quality.of_constant)
        deviation = quality.errors.std() / math.sqrt(len(quality.errors))
        figures["relative_error_deviation"] = float(deviation / quality.of_constant)
    return TaskFigures(**figures)


def _figures_of_lists(
    head: RankingHead, loss: TaskLoss | None, scores: np.ndarray, labels: np.ndarray | None
) -> TaskFigures:
    """Return the figures of scores and labels `(lists, items)`. Examples are lists."""
    is_finite = np.isfinite(scores)
    finite = scores[is_finite].astype("float64")
    figures: dict[str, Any] = {}
    if len(finite):
        figures["prediction_mean"] = float(finite.mean())
        figures["prediction_deviation"] = float(finite.std())
    is_labeled = np.zeros_like(is_finite)
    if labels is not None:
        is_labeled = is_finite & ~is_missing(labels, head.missing_label)
    if labels is not None and is_labeled.any():
        figures["labels"] = int(is_labeled.any(axis=-1).sum())
        figures["label_share"] = figures["labels"] / len(labels)
        of_items = labels[is_labeled].astype("float64")
        figures["label_mean"] = float(of_items.mean())
        figures["label_deviation"] = float(of_items.std())
        if loss is not None:
            known = np.where(is_labeled, labels, np.nan), np.where(is_finite, scores, 0.0)
            figures["loss"] = float(to_numpy(loss(*(array.astype("float32") for array in known))))
    return TaskFigures(**figures)


def _has_missing(labels: np.ndarray, head: Head) -> np.ndarray:
    """Return True where a label `(labels, width)` is missing, or of an ignored class."""
    missing = is_missing(labels, head.missing_label)
    ignored = getattr(head.loss, "ignore_class", None)
    if ignored is not None:
        missing |= labels == ignored
    by_element = head.loss is not None and is_mean_of_numbers(head.loss)
    return np.asarray(missing.all(axis=-1) if by_element else missing.any(axis=-1))


def _loss_value(
    loss: TaskLoss, labels: np.ndarray, predictions: np.ndarray, is_kept: np.ndarray
) -> float:
    """Return the loss of all positions as one batch."""
    labels, predictions = labels.astype("float32"), predictions.astype("float32")
    if isinstance(loss, MaskedLoss | HeadLoss):  # it may divide by the number of all examples
        labels = np.where(is_kept[:, None], labels, np.nan)
        predictions = np.where(is_kept[:, None], predictions, SAFE_PREDICTION)
    else:
        labels, predictions = labels[is_kept], predictions[is_kept]
    return float(np.mean(to_numpy(loss(labels, predictions))))


class _Quality(NamedTuple):
    """Figures, the error of each labeled example, and that of the best constant prediction."""

    figures: dict[str, Any]
    errors: np.ndarray
    of_constant: float


def _binary_quality(y: np.ndarray, p: np.ndarray) -> _Quality:
    positives, expected = float(y.sum()), float(p.sum())
    rate = positives / len(y)
    has_two_classes = np.isin(y, (0, 1)).all() and 0 < rate < 1
    figures = {
        "label_mean": rate,
        "label_deviation": float(y.std()),
        "expected_positives": expected,
        "calibration": expected / positives if positives else math.nan,
        "auc": grouped_auc(y, p, np.zeros(len(y), int)) if has_two_classes else math.nan,
    }
    return _Quality(figures, _crossentropy(y, p), float(_crossentropy(rate, np.array(rate))))


def _crossentropy(y: Any, p: np.ndarray) -> np.ndarray:
    log_positive = np.log(np.maximum(p, MIN_PROBABILITY))
    log_negative = np.log1p(-np.minimum(p, 1 - ROUNDING))
    errors: np.ndarray = -(y * log_positive + (1 - y) * log_negative)
    return errors


def _class_quality(y: np.ndarray, p: np.ndarray) -> _Quality:
    if y.shape[-1] == 1:  # class indices
        y = np.eye(p.shape[-1])[y[:, 0].astype(int)]
    rates = y.mean(axis=0)
    figures = {
        "label_classes": int((rates > 0).sum()),
        "accuracy": float((y.argmax(axis=-1) == p.argmax(axis=-1)).mean()),
    }
    errors = -(y * np.log(np.maximum(p, MIN_PROBABILITY))).sum(axis=-1)
    return _Quality(figures, errors, float(-(rates * np.log(np.maximum(rates, 1e-300))).sum()))


def _number_quality(y: np.ma.MaskedArray, p: np.ndarray) -> _Quality:
    """Return the quality of numbers. Single missing ones are masked."""
    deviations = y.std(axis=0)
    figures = {"label_mean": float(y.mean()), "label_deviation": float(deviations.max())}
    if y.shape != p.shape:
        return _Quality(figures, np.full(1, math.nan), math.nan)
    squares = np.square(y - p)
    figures["rmse"] = float(np.sqrt(squares.mean()))
    if not (deviations > 0).all():
        return _Quality(figures, np.full(1, math.nan), math.nan)
    return _Quality(figures, (squares / np.square(deviations)).mean(axis=-1), 1.0)
