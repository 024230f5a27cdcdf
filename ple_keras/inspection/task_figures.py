"""Figures on the labels and predictions of a task, with warnings."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ple_keras._typing import Tensor
from ple_keras.heads.binary_heads import ProbabilityHead
from ple_keras.heads.head import Head
from ple_keras.heads.multiclass_head import MulticlassHead
from ple_keras.heads.ranking_head import RankingHead
from ple_keras.heads.regression_heads import variance_power
from ple_keras.heads.task_losses import batch_loss
from ple_keras.inspection._report_text import cells
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.losses.example_losses import MIN_PROBABILITY
from ple_keras.losses.loss_kinds import ERRORS, loss_name
from ple_keras.metrics.array_metrics import grouped_auc, half_deviances

Epochs: TypeAlias = Mapping[str, list[float]]  # the values of all epochs of `fit`, by key
MIN_COMPLEMENT = 1e-7  # of 1 - p, since float32 has few probabilities closer to 1
# Thresholds of the warnings:
MIN_LABELS = 100
LEARNED_ERROR = 0.3  # relative error below which a small gradient is not a problem
ONE_VALUE_LABELS = 1000  # at a rate of 1%, the chance of only one class is below .0001
CONSTANT_DEVIATION = 1e-6  # of predictions, relative to the labels: float32 has 7 digits
CALIBRATION = (0.67, 1.5)  # the last steps of Adam alone caused 1.4 in a task with 4% positives
# In standard errors: chance causes larger differences in fewer than 3 of 1000 tasks
SIGNIFICANT = 3
# Of the difference between the mean label and the mean prediction, in deviations of the labels. The
# least squared error predicts means. The other errors can predict medians, which differ from means
# by up to one deviation.
MEAN_GAPS = dict.fromkeys(ERRORS, 1.0) | {"mean_squared_error": 0.25}
# Of relative errors, and of the gain of training on a constant prediction, of which healthy models
# lost up to 0.28, by less than three standard errors:
MIN_GAP, LARGE_GAP = 0.05, 0.3
LARGE_RISE = 0.1  # of a validation loss after its best epoch, relative to it


@dataclass(frozen=True)
class TaskFigures:
    """Labels and predictions of a task over some examples.

    A figure is NaN if it does not apply to the task. If labels or predictions have several numbers,
    means are over all of them, and deviations are the largest one.

    Attributes:
        labels: The number of labeled examples with a finite prediction; 0 if no labels were given.
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
        relative_error: The error divided by the error of the best constant prediction: for a binary
            task and for classes, the normalized entropy; for a Poisson loss, the ratio of the
            deviances; for a regression, the mean squared error over the variance. 0 is best, and 1
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
    relative_error: float = math.nan
    relative_error_deviation: float = math.nan
    calibration: float = math.nan

    @property
    def has_constant_predictions(self) -> bool:
        """Whether predictions are constant, so that shared parts get no gradient from the task."""
        unit = self.label_deviation if self.label_deviation > 0 else 1.0
        return self.prediction_deviation < CONSTANT_DEVIATION * unit

    @property
    def may_learn(self) -> bool:
        """Whether the task has many labels, and has not learned them."""
        is_learned = self.relative_error <= LEARNED_ERROR or self.has_constant_predictions
        return self.labels >= MIN_LABELS and not is_learned


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
    if isinstance(head, MulticlassHead) or _is_rate(head):
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
    is_list = isinstance(head, RankingHead)
    is_finite = np.isfinite(predictions)
    if not is_list:
        is_finite = is_finite.all(axis=-1, keepdims=True)
    p = np.where(is_finite, predictions.astype("float64"), np.nan)
    y = np.where(is_finite, labels, np.nan)
    is_labeled = np.asarray(np.isfinite(y).any(axis=-1))
    count, examples = int(is_labeled.sum()), int(is_finite.any(axis=-1).sum())
    mean, deviation = _mean_and_deviation(p[is_labeled] if count else p, is_list)
    figures: dict[str, Any] = {"prediction_mean": mean, "prediction_deviation": deviation}
    if isinstance(head, MulticlassHead):
        del figures["prediction_mean"]
    if not count:
        return TaskFigures(**figures)
    if head.has_loss:
        safe = np.where(np.isnan(p), SAFE_PREDICTION, p).astype("float32")
        loss = batch_loss(head, y.astype("float32"), safe, None)
        figures["loss"] = float(loss.total / loss.count)
    y, p, errors = y[is_labeled], p[is_labeled], np.array([math.nan])
    figures["label_mean"], figures["label_deviation"] = _mean_and_deviation(y, is_list)
    if isinstance(head, ProbabilityHead):
        complement = np.maximum(1 - p, MIN_COMPLEMENT)
        errors = _crossentropies(np.hstack([1 - y, y]), np.hstack([complement, p]))
        if np.isin(y, (0, 1)).all() and 0 < y.mean() < 1:
            figures["auc"] = grouped_auc(y[:, 0], p[:, 0], np.zeros(count, int))
    elif isinstance(head, MulticlassHead):
        if y.shape[-1] == 1:  # class indices
            y = np.eye(p.shape[-1])[y[:, 0].astype(int)]
        errors = _crossentropies(y, p)
        figures["label_mean"], figures["label_deviation"] = math.nan, float(y.std(axis=0).max())
        figures["accuracy"] = float((y.argmax(axis=-1) == p.argmax(axis=-1)).mean())
    elif y.shape == p.shape and not is_list:
        numbers = np.ma.masked_invalid(y)
        if (power := variance_power(head)) is not None:
            losses = half_deviances(numbers, p, power)
            baseline = half_deviances(numbers, numbers.mean(axis=0), power).mean(axis=0)
            figures["deviance"] = 2 * float(losses.mean())
        else:
            losses, baseline = (numbers - p) ** 2, numbers.var(axis=0)
            figures["rmse"] = float(np.sqrt(losses.mean()))
        errors = (losses / baseline).mean(axis=-1).filled(math.nan)
    if _is_rate(head) and (total := np.nansum(y)):
        figures["calibration"] = float(p[~np.isnan(y)].sum() / total)
    figures["relative_error"] = float(errors.mean())
    figures["relative_error_deviation"] = float(errors.std() / math.sqrt(count))
    return TaskFigures(labels=count, label_share=count / examples, **figures)


def metric_text(task: TaskFigures) -> str:
    """Return the metrics that apply to a task."""
    names = ("AUC", "accuracy", "RMSE", "deviance")
    values = zip(names, cells(task, auc=".4f", accuracy=".4f", rmse=".4g", deviance=".4g"))
    return ", ".join(f"{name} {value}" for name, value in values if value != "-")


def _is_rate(head: Head) -> bool:
    """Return whether predictions are to have the sum of the labels."""
    return isinstance(head, ProbabilityHead) or variance_power(head) is not None


def _mean_and_deviation(values: np.ndarray, is_list: bool) -> tuple[float, float]:
    """Return the mean of all numbers and the largest deviation of a column, without NaN."""
    known = np.ma.masked_invalid(values.reshape(-1, 1) if is_list else values)
    deviation = known.std(axis=0).max() if len(known) > 1 else math.nan
    return float(np.ma.filled(known.mean(), math.nan)), float(np.ma.filled(deviation, math.nan))


def _crossentropies(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the errors of probabilities, relative to the best constant prediction."""
    rates = y.mean(axis=0)
    baseline = -(rates * np.log(np.maximum(rates, MIN_PROBABILITY))).sum()
    errors: np.ndarray = -(y * np.log(np.maximum(p, MIN_PROBABILITY))).sum(axis=-1)
    return errors / (baseline if baseline > 0 else math.nan)


def figure_warnings(start: str, task: TaskFigures, head: Head, loss_weight: float) -> Iterator[str]:
    """Yield warnings about the labels and predictions of a task.

    Args:
        start: The beginning of each warning.
        task: The figures of the task.
        head: Its head.
        loss_weight: The current weight of its loss; 0 if it is not trained.
    """
    enough = ONE_VALUE_LABELS if _is_rate(head) else MIN_LABELS
    if loss_weight and not task.label_deviation > 0 and not 0 < task.labels < enough:
        cause = f"its {task.labels:,} labels do not differ" if task.labels else "it has no labels"
        yield (
            f"{start}{cause}, so there is nothing to learn. Check the labels and the head's "
            "missing_label."
        )
    elif task.has_constant_predictions:
        yield (
            f"{start}the predictions are constant, with a standard deviation of "
            f"{task.prediction_deviation:.0e}. Check the scale of x, or lower the learning rate."
        )
    elif task.labels >= MIN_LABELS and (gap := MEAN_GAPS.get(loss_name(head.loss))):
        gap = max(gap, SIGNIFICANT / math.sqrt(task.labels)) * task.label_deviation
        if abs(task.label_mean - task.prediction_mean) > gap:
            means = f"{task.label_mean:.3g}, and the mean prediction {task.prediction_mean:.3g}"
            yield f"{start}the mean label is {means}. Check that labels and x are as in training."
    elif task.labels >= MIN_LABELS and not CALIBRATION[0] <= task.calibration <= CALIBRATION[1]:
        variance = max(task.calibration * task.label_mean, task.label_mean, task.label_deviation**2)
        error = math.sqrt(variance / task.labels)
        remedy = "Check that missing labels are NaN, and that x is like the training data."
        if getattr(head, "pos_weight", None) is not None:
            remedy = "Divide the predicted odds by the pos_weight."
        if abs(task.calibration - 1) * task.label_mean > SIGNIFICANT * error:
            yield (
                f"{start}the sum of the predictions is {task.calibration:.2f} times the sum of "
                f"{task.labels:,} labels. {remedy}"
            )


def gap_warnings(start: str, task: TaskFigures, validation: TaskFigures) -> Iterator[str]:
    """Yield a warning if a task is much worse on validation data."""
    gap = validation.relative_error - task.relative_error
    error = math.hypot(task.relative_error_deviation, validation.relative_error_deviation)
    large = max(MIN_GAP, LARGE_GAP * (1 - task.relative_error), SIGNIFICANT * error)
    if min(task.labels, validation.labels) >= MIN_LABELS and gap > large:
        yield (
            f"{start}the relative error is {validation.relative_error:.2f} in the validation data, "
            f"and {task.relative_error:.2f} in training: the task overfits, or the data differ. "
            "Try a dropout of 0.1, then 0.3, in the experts, or of 0.5, then 0.7, after the tables."
        )


def epoch_warnings(head: Head, prefix: str, logs: Epochs, validation: TaskFigures) -> Iterator[str]:
    """Yield a warning if a task was better in an earlier epoch.

    Args:
        head: The head of the task.
        prefix: The prefix of its metrics in logs, such as "click_".
        logs: The values of all epochs of `fit`.
        validation: The figures of the task on validation data.
    """
    # Not `val_{task}_loss`, in which batches without labels count as 0.
    key, now = f"val_{prefix}mean_squared_error", validation.rmse**2
    least = 0.0 if math.isnan(validation.deviance) else validation.loss - validation.deviance / 2
    if f"val_{prefix}deviance" in logs:
        key, now, least = f"val_{prefix}deviance", validation.deviance, 0.0
    elif f"val_{prefix}{head._loss_name()}" in logs:
        key, now = f"val_{prefix}{head._loss_name()}", validation.loss
    losses = logs.get(key, [])
    best = min(losses, default=math.nan)
    if now > best + LARGE_RISE * abs(best - least):
        yield (
            f"{head.task}: in fit, {key} was lowest in validation {losses.index(best) + 1} of "
            f"{len(losses)}, with {best:.4g}, and is {now:.4g} now. In a HedgedBlock, FitHedge "
            "keeps the best epoch of each branch."
        )
