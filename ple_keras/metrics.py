"""Metrics of the heads, and any metric over the labelled examples."""

import inspect
import math
from typing import Any

import keras
from keras import ops

from ple_keras._compiling import check_loss, check_metrics, new_metric, stable_name
from ple_keras._labels import (
    align,
    check_missing_label,
    config_of,
    example_weights,
    sample_space,
)
from ple_keras._registration import register
from ple_keras._validation import refuse_fixed
from ple_keras.losses import example_losses, ignored_class

MAX_LOGIT = 16.0  # float32 probabilities hold no more: sigmoid(16.6) rounds to 1
MIN_LOGIT = -86.0  # nor less, as those of products are
TAIL = 0.25  # how far apart logits below -MAX_LOGIT are spread, next to those above it
LOWEST = -MAX_LOGIT + TAIL * (MIN_LOGIT + MAX_LOGIT)  # where MIN_LOGIT comes to lie


@register
class LogitAUC(keras.metrics.AUC):
    """The area under the ROC curve of probabilities, with thresholds even in the logit.

    Stock `keras.metrics.AUC` spaces its thresholds evenly in [0, 1]. Where positives are rare
    nearly all predictions fall below the first of them, and the area is far off. The area does
    not change under a monotonic map, so this metric spreads the predictions first, by their
    logit, over [0, 1]: from -86 to 16, more closely below -16, where only products of
    probabilities lie.

    Args:
        num_thresholds: The number of thresholds.
        name: The metric's name.
        **kwargs: Arguments of `keras.metrics.AUC` but `from_logits`.

    Example:

    >>> auc = LogitAUC()
    >>> auc.update_state([0, 0, 1, 1], [1e-5, 4e-5, 2e-5, 9e-5])
    >>> round(float(auc.result()), 3)
    0.75
    """

    def __init__(self, num_thresholds: int = 4000, name: str = "auc", **kwargs: Any) -> None:
        if kwargs.get("from_logits"):
            refuse_fixed(kwargs, "from_logits", "False, for probabilities")
        super().__init__(num_thresholds=num_thresholds, name=name, **kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch.

        Args:
            y_true: Labels, 0 or 1, `(...)` or `(..., 1)`.
            y_pred: Probabilities, `(..., 1)` or `(...)`.
            sample_weight: Weights of the examples.
        """
        y_pred = ops.clip(ops.cast(y_pred, self.dtype), 1e-37, 1 - 1e-7)
        logits = ops.log(y_pred) - ops.log1p(-y_pred)
        spread = ops.maximum(logits, -MAX_LOGIT) + TAIL * ops.minimum(logits + MAX_LOGIT, 0.0)
        spread = ops.clip((spread - LOWEST) / (MAX_LOGIT - LOWEST), 0.0, 1.0)
        super().update_state(y_true, spread, sample_weight)


@register
class MaskedMetric(keras.Metric):
    """Any metric, over the examples that have a label.

    Args:
        metric: A name, a function or a `keras.metrics.Metric`. Its `update_state` must take a
            `sample_weight`, which is 0 where the label is missing.
        missing_label: The label of an example that has none, beside NaN. A label of several
            numbers is missing if one of them is.
        name: The metric's name; by default that of `metric`.

    Raises:
        TypeError: if `metric` is of none of these kinds, or `missing_label` no number.
        ValueError: if `metric` is unknown, or takes no `sample_weight`.

    Example:

    >>> metric = MaskedMetric("mean_absolute_error")
    >>> metric.update_state([[1.0], [float("nan")], [3.0]], [[2.0], [5.0], [5.0]])
    >>> float(metric.result())
    1.5
    """

    def __init__(
        self, metric: Any, missing_label: float = math.nan, name: str | None = None
    ) -> None:
        (metric,) = check_metrics([metric])
        if not isinstance(metric, keras.Metric):
            metric = new_metric(metric, stable_name(metric))
        super().__init__(name=name or metric.name)
        self.metric = metric
        self.label = self.name  # for messages; a head puts its task before it
        self.missing_label = check_missing_label(missing_label)
        self._check_takes_weights()
        if hasattr(metric, "_direction"):  # by which EarlyStopping knows that more is better
            self._direction = metric._direction

    def _check_takes_weights(self) -> None:
        parameters = inspect.signature(self.metric.update_state).parameters.values()
        if not any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise ValueError(
                "metric must take a sample_weight in update_state, by which examples without a "
                f"label are left out. Received: metric={self.metric!r}"
            )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count the labelled examples of a batch.

        Args:
            y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`.
            y_pred: Predictions, `(..., units)`.
            sample_weight: Weights of the examples.
        """
        y_true, y_pred, in_space = sample_space(
            y_true, y_pred, self.missing_label, where=f" of {self.label!r}"
        )
        rank = len(y_pred.shape) - 1
        weights = example_weights(sample_weight, in_space, rank, self.metric.dtype)
        try:
            self.metric.update_state(y_true, y_pred, sample_weight=weights)
        except Exception as error:
            raise ValueError(
                "metric must take labels and predictions, with a value for each example if it is "
                f"a function, so that those without a label can be left out; {self.label!r} fails "
                f"on them: {error} Received: metric={self.metric!r}"
            ) from error

    def result(self) -> Any:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        return {
            "metric": keras.saving.serialize_keras_object(self.metric),
            "missing_label": config_of(self.missing_label),
            "name": self.name,
        }


@register
class LossMean(keras.metrics.Mean):
    """The mean of a loss over the examples of an epoch.

    Keras's `loss` is the mean of batch means: of batches with few labels as of those with many.

    Args:
        loss: A name, a function or a `keras.losses.Loss`.
        **kwargs: Arguments of `keras.metrics.Mean`.
    """

    _direction = "down"

    def __init__(self, loss: Any, **kwargs: Any) -> None:
        self.loss = check_loss(loss)
        super().__init__(**{"name": stable_name(self.loss), **kwargs})

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch; arguments as for `MaskedMetric.update_state`."""
        y_true, y_pred = (ops.cast(y, self.dtype) for y in align(y_true, y_pred))
        is_ignored = ignored_class(self.loss, y_true, y_pred)
        if is_ignored is not None:
            space = ops.logical_not(is_ignored)
            sample_weight = example_weights(sample_weight, space, len(y_pred.shape) - 1, self.dtype)
        super().update_state(example_losses(self.loss, y_true, y_pred), sample_weight)

    def named_copy(self, name: str) -> "LossMean":
        """A new one of the same loss, which need not survive its config."""
        return LossMean(self.loss, name=name)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}
