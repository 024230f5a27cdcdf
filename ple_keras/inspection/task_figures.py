"""Figures on the labels and predictions of a task, with warnings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ple_keras._typing import Tensor
from ple_keras.families.family import Family
from ple_keras.heads.head import Head
from ple_keras.heads.task_losses import batch_loss
from ple_keras.inspection.report_text import cells
from ple_keras.labels.sample_space import SAFE_PREDICTION

# Thresholds of the warnings:
MIN_LABELS = 100
CONSTANT_DEVIATION = 1e-6  # deviation of predictions relative to labels: float32 has 7 digits
CALIBRATION = (0.67, 1.5)  # the last steps of Adam alone caused 1.4 in a task with 4% positives
SIGNIFICANT = 3  # standard errors, which chance exceeds in fewer than 3 of 1000 tasks


@dataclass(frozen=True)
class TaskFigures:
    """Labels and predictions of a task over some examples.

    A figure is NaN if it does not apply to the task. If labels or predictions have several numbers,
    means are over all of them, and deviations are the largest one. An example is then labeled if
    it has any number, there is no AUC, and `relative_error` is not comparable to the figures of one
    BinaryHead for each number.

    Attributes:
        labels: The number of labeled examples with a finite prediction; 0 without labels.
            In rankings, examples are lists.
        label_share: The share of labeled examples.
        label_mean: The mean label; for a binary task, the share of positives. NaN for classes.
        label_deviation: The standard deviation of the labels; for classes, of their indicators.
        prediction_mean: The mean prediction of the labeled examples, or of all without labels. NaN
            for classes.
        prediction_deviation: The standard deviation of these predictions. NaN with one example.
        loss: The mean loss of the labeled examples, for any `reduction`.
        auc: For a binary task, the area under the ROC curve.
        accuracy: For a task with classes, the share of correct predictions.
        rmse: For a regression, the root mean squared error, in the unit of the labels.
        deviance: For a Poisson loss, twice the difference between the loss and the least possible
            loss.
        coverage: For quantiles, the share of labels from the first to the last quantile.
        nominal_coverage: The difference between the last and the first quantile, such as 0.8.
        relative_error: The error divided by the error of the best constant prediction: for a binary
            task and for classes, the normalized entropy; for a Poisson loss, the ratio of the
            deviances; for a regression, the mean squared error over the variance; for quantiles,
            the ratio of the pinball losses. 0 is best, and 1
            means that nothing was learned.
        relative_error_deviation: The standard error of `relative_error` over the examples.
        calibration: For a binary task and a Poisson loss, the sum of the predictions of labeled
            examples divided by the sum of their labels.
    """

    labels: int = 0
    label_share: float = 0.0
    label_mean: float = math.nan
    label_deviation: float = math.nan
    prediction_mean: float = math.nan
    prediction_deviation: float = math.nan
    loss: float = math.nan
    auc: float = math.nan
    accuracy: float = math.nan
    rmse: float = math.nan
    deviance: float = math.nan
    coverage: float = math.nan
    nominal_coverage: float = math.nan
    relative_error: float = math.nan
    relative_error_deviation: float = math.nan
    calibration: float = math.nan


def labels_by_position(head: Head, labels: Tensor | None, predictions: np.ndarray) -> np.ndarray:
    """Return labels as `(positions, width)`, with NaN for missing ones.

    Args:
        head: The head of the task.
        labels: Labels in any shape, or None.
        predictions: The predictions, `(positions, units)`; for rankings, `(lists, items)`.

    Raises:
        TypeError: If labels are not numbers.
        ValueError: If labels have a wrong shape, or one is infinite, not a probability, not a class
            of the head, or a negative count.
    """
    if labels is None:
        return np.full((len(predictions), 1), np.nan)
    present, is_labeled = head._present_labels(labels)
    family = head._family()
    if family.has_classes or family.is_rate:
        head._check_values(present)
    known = np.full((*is_labeled.shape, present.shape[-1]), np.nan)
    known[is_labeled] = present
    return known.reshape(len(predictions), -1)


def task_figures(head: Head, predictions: np.ndarray, labels: np.ndarray) -> TaskFigures:
    """Return the figures of predictions `(positions, units)`, without non-finite ones.

    Args:
        head: The head of the task.
        predictions: The predictions, with NaN at masked positions.
        labels: The labels from `labels_by_position`.
    """
    family = head._family()
    figures = family_figures(family, predictions, labels)
    if not (figures.labels and head.has_loss):
        return figures
    p, y = _without_wrong(predictions, labels, family.is_list)
    safe = np.where(np.isnan(p), SAFE_PREDICTION, p).astype("float32")
    loss = batch_loss(head, y.astype("float32"), safe, None)
    return replace(figures, loss=float(loss.total / loss.count))


def family_figures(family: Family, predictions: np.ndarray, labels: np.ndarray) -> TaskFigures:
    """Return the figures without the loss.

    Args:
        family: The family of the labels.
        predictions: As for `task_figures`.
        labels: As for `task_figures`.
    """
    p, y = _without_wrong(predictions, labels, family.is_list)
    is_labeled = np.isfinite(y).any(axis=-1)
    count, examples = int(is_labeled.sum()), int(np.isfinite(p).any(axis=-1).sum())
    mean, deviation = _mean_and_deviation(p[is_labeled] if count else p, family.is_list)
    is_mean_known = family.axes == 1 or not family.has_classes
    figures: dict[str, Any] = {"prediction_mean": mean} if is_mean_known else {}
    figures["prediction_deviation"] = deviation
    if not count:
        return TaskFigures(**figures)
    y, p = y[is_labeled], p[is_labeled]
    figures["label_mean"], figures["label_deviation"] = _mean_and_deviation(y, family.is_list)
    if family.is_rate and np.nansum(y):
        figures["calibration"] = float(p[~np.isnan(y)].sum() / np.nansum(y))
    wide = family.indicators(y, p.shape[-1])
    if wide is not None:
        figures |= family.figures(wide, p)
    errors = relative_losses(family, p, y)
    figures["relative_error"] = float(errors.mean())
    figures["relative_error_deviation"] = float(errors.std() / math.sqrt(count))
    return TaskFigures(labels=count, label_share=count / examples, **figures)


def _without_wrong(
    predictions: np.ndarray, labels: np.ndarray, is_list: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions in float64, and labels, with NaN where predictions are not finite."""
    is_finite = np.isfinite(predictions)
    if not is_list:
        is_finite = is_finite.all(axis=-1, keepdims=True)
    known = np.where(is_finite, predictions.astype("float64"), np.nan)
    return known, np.where(is_finite, labels, np.nan)


def relative_losses(family: Family, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the loss of each position, relative to the best constant prediction.

    It is NaN for positions without a label, and for all if no labels differ, or for rankings.

    Args:
        family: The family of the labels.
        predictions: The predictions, `(positions, units)`.
        labels: The labels from `labels_by_position`.
    """
    found, is_labeled = np.full(len(labels), np.nan), np.isfinite(labels).any(axis=-1)
    p = predictions[is_labeled].astype("float64")
    y = family.indicators(labels[is_labeled], predictions.shape[-1])
    if y is None or not len(y):
        return found
    constants = np.broadcast_to(family.constant(y), y.shape)
    losses, baseline = (np.ma.masked_invalid(family.losses(y, each)) for each in (p, constants))
    relative: Any = losses / baseline.mean(axis=0)
    found[is_labeled] = relative.mean(axis=-1).filled(np.nan)
    return found


def metric_text(task: TaskFigures) -> str:
    """Return the metrics that apply to a task."""
    names = ("AUC", "accuracy", "RMSE", "deviance")
    values = zip(names, cells(task, auc=".4f", accuracy=".4f", rmse=".4g", deviance=".4g"))
    texts = [f"{name} {value}" for name, value in values if value != "-"]
    if not math.isnan(task.coverage):
        texts.append(f"coverage {task.coverage:.1%} of {task.nominal_coverage:.3g}")
    return ", ".join(texts)


def _mean_and_deviation(values: np.ndarray, is_list: bool) -> tuple[float, float]:
    """Return the mean of all numbers and the largest deviation of a column, without NaN."""
    known = np.ma.masked_invalid(values.reshape(-1, 1) if is_list else values)
    deviation = known.std(axis=0).max() if len(known) > 1 else math.nan
    return float(np.ma.filled(known.mean(), math.nan)), float(np.ma.filled(deviation, math.nan))


def figure_warnings(task: str, figures: TaskFigures, head: Head) -> Iterator[str]:
    """Yield warnings about the predictions of a task."""
    unit = figures.label_deviation if figures.label_deviation > 0 else 1.0
    mean, calibration = figures.label_mean, figures.calibration
    if figures.prediction_deviation < CONSTANT_DEVIATION * unit:
        yield (
            f"{task}: the predictions are constant, with a standard deviation of "
            f"{figures.prediction_deviation:.0e}. Check the scale of x, or lower the learning rate."
        )
    elif figures.labels >= MIN_LABELS and not CALIBRATION[0] <= calibration <= CALIBRATION[1]:
        variance = max(calibration * mean, mean, figures.label_deviation**2)
        error = math.sqrt(variance / figures.labels)
        remedy = "Check that missing labels are NaN, and that x is like the training data."
        if getattr(head, "pos_weight", None) is not None:
            remedy = "Divide the predicted odds by the pos_weight."
        if abs(calibration - 1) * mean > SIGNIFICANT * error:
            yield (
                f"{task}: the sum of the predictions is {calibration:.2f} times the sum of "
                f"{figures.labels:,} labels. {remedy}"
            )
