"""A metric over labelled examples, and copies of metrics for `Model.compile`."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from ple_keras._checks import warn_user
from ple_keras._keras.copying import copy_metric
from ple_keras._keras.internals import copy_direction
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._typing import MetricLike, Tensor
from ple_keras.labels.label_arrays import masks_elements
from ple_keras.labels.sample_space import (
    check_missing_label,
    example_weights,
    measured_sample_space,
    to_config,
)
from ple_keras.metrics.logit_auc import LogitAUC
from ple_keras.metrics.loss_mean import LossMean
from ple_keras.metrics.metrics_of_sums import MetricOfSums

# Metrics of Keras that do not depend on which numbers form a label:
OF_ELEMENTS = (
    keras.metrics.AUC,
    keras.metrics.BinaryAccuracy,
    keras.metrics.BinaryCrossentropy,
    keras.metrics.Hinge,
    keras.metrics.LogCoshError,
    keras.metrics.MeanAbsoluteError,
    keras.metrics.MeanAbsolutePercentageError,
    keras.metrics.MeanSquaredError,
    keras.metrics.MeanSquaredLogarithmicError,
    keras.metrics.Poisson,
    keras.metrics.RootMeanSquaredError,
    keras.metrics.SquaredHinge,
)


@register
class MaskedMetric(keras.Metric):
    """A wrapper that computes any metric over labelled examples only.

    Args:
        metric: A name, a function or a `keras.metrics.Metric`. Its `update_state` must accept
            `sample_weight`, which is 0 where the label is missing.
        missing_label: The value of a missing label, in addition to NaN. Each number of a label of
            several numbers may be missing, if the metric is a mean over numbers: see `MaskedLoss`.
            So are those of `LogitAUC`, `NormalizedEntropy`, `Calibration`, and of Keras the errors,
            `BinaryAccuracy` and `AUC`. For other metrics, a label is missing if any number is.
        name: The metric's name; by default that of `metric`.

    Raises:
        TypeError: If `metric` has another type, or `missing_label` is not a number.
        ValueError: If `metric` is unknown, or does not accept `sample_weight`.

    Warns:
        UserWarning: Once, if `metric` is a LogitAUC that is NaN at the end of an epoch or of
            `evaluate`, because there was no positive or no negative label.

    Example:

    >>> metric = MaskedMetric("mean_absolute_error")
    >>> metric.update_state([[1.0], [float("nan")], [3.0]], [[2.0], [5.0], [5.0]])
    >>> float(metric.result())
    1.5
    """

    def __init__(
        self, metric: MetricLike, missing_label: float = math.nan, name: str | None = None
    ) -> None:
        (metric,) = check_metrics([metric])
        if not isinstance(metric, keras.Metric):
            metric = _new_metric(metric, stable_name(metric))
        super().__init__(name=name or metric.name)
        self.metric = metric
        self.display_name = self.name  # for messages; a head prepends its task
        self.missing_label = check_missing_label(missing_label)
        self._check_takes_weights()
        self._masks_elements = _masks_elements(metric)
        copy_direction(metric, self)
        self._is_step_result = self._has_warned = False

    def _check_takes_weights(self) -> None:
        parameters = inspect.signature(self.metric.update_state).parameters.values()
        if not any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise ValueError(
                "metric must accept sample_weight in update_state, so that missing labels can be "
                f"excluded. Received: metric={self.metric!r}"
            )

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Accumulate the labelled examples of a batch.

        Args:
            y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`.
            y_pred: Predictions, `(..., units)`.
            sample_weight: Weights of the examples.
        """
        where = f" of {self.display_name!r}"
        y_true, y_pred, in_space = measured_sample_space(
            y_true, y_pred, self.missing_label, where, self._masks_elements
        )
        weights = example_weights(
            sample_weight, in_space, y_pred.shape[:-1], self.metric.dtype, where
        )
        is_by_element = weights is not None and len(weights.shape) == len(y_pred.shape)
        if is_by_element and not isinstance(self.metric, LossMean):
            y_true, y_pred = (ops.reshape(values, (-1, 1)) for values in (y_true, y_pred))
            weights = ops.reshape(weights, (-1,))
        self._is_step_result = True
        try:
            self.metric.update_state(y_true, y_pred, sample_weight=weights)
        except Exception as error:
            raise ValueError(
                "metric must accept labels and predictions, and a function must return a value for "
                f"each example. {self.display_name!r} failed: {error} "
                f"Received: metric={self.metric!r}"
            ) from error

    def result(self) -> Tensor:
        result = self.metric.result()
        if isinstance(self.metric, LogitAUC) and not (self._is_step_result or self._has_warned):
            self._warn_if_nan(result)
        self._is_step_result = False
        return result

    def _warn_if_nan(self, auc: Tensor) -> None:
        """Warn once if an AUC is NaN at the end of an epoch.

        Keras reads the result once in each step, which may be compiled, and again at the end.
        """
        try:
            self._has_warned = math.isnan(float(auc))
        except TypeError:  # a trace has no values
            return
        if self._has_warned:
            warn_user(
                f"{self.display_name!r} is NaN, because the task has no positive or no negative "
                "label in these data. For EarlyStopping and ModelCheckpoint, NaN is no "
                "improvement, and nothing improves on NaN in the first epoch."
            )

    def reset_state(self) -> None:
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        return {
            "metric": keras.saving.serialize_keras_object(self.metric),
            "missing_label": to_config(self.missing_label),
            "name": self.name,
            "display_name": self.display_name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Create a metric. Files of version 0.1.0 have no "display_name"."""
        config = dict(config)
        display_name = config.pop("display_name", None)
        metric = super().from_config(config)
        metric.display_name = display_name or metric.display_name
        return metric


def _masks_elements(metric: keras.Metric) -> bool:
    """Return whether a metric of labels of several numbers is that of all numbers in one column."""
    if isinstance(metric, LossMean):
        return masks_elements(metric.loss)
    is_known = isinstance(metric, LogitAUC | MetricOfSums) or type(metric) in OF_ELEMENTS
    return is_known and not getattr(metric, "multi_label", False)


def check_metrics(metrics: Sequence[MetricLike] | None, argument: str = "metrics") -> list[Any]:
    """Return metrics from names, functions, objects or serialized objects.

    Args:
        metrics: The metrics; None stands for none.
        argument: The name of the caller's argument, for messages.
    """
    if metrics is None:
        return []
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise TypeError(
            f"{argument} must be a sequence of metrics. Received: {argument}={metrics!r}"
        )
    return [_check_metric(metric, argument) for metric in metrics]


def _check_metric(metric: MetricLike | Mapping[str, object], argument: str) -> Any:
    if isinstance(metric, Mapping) and "class_name" in metric:
        return keras.saving.deserialize_keras_object(metric)
    if isinstance(metric, str):
        try:
            keras.metrics.get(metric)
        except ValueError as error:
            raise ValueError(
                f"{argument} given by name must be Keras metrics. "
                f"Received: {argument}=[..., {metric!r}]"
            ) from error
    elif isinstance(metric, type) or not callable(metric):
        raise TypeError(
            f"{argument} must be names, functions or keras.metrics.Metric objects. "
            f"Received: {argument}=[..., {metric!r}]"
        )
    return metric


def named_copies(metrics: Mapping[str, Sequence[MetricLike]]) -> list[keras.Metric]:
    """Return new metrics from templates, with names that are the same in every run.

    Args:
        metrics: The templates, by the name of the caller's argument. A name that is taken gets a
            number.
    """
    copies: list[Any] = []
    for argument, templates in metrics.items():
        for template in templates:
            name = unused_name(stable_name(template), [copy.name for copy in copies])
            copies.append(_new_metric(template, name, argument))
    return copies


def _new_metric(template: MetricLike, name: str, argument: str = "metrics") -> keras.Metric:
    """Return a new metric from a name, a function or a metric, as `Model.compile` does."""
    known = accuracy if template in ("accuracy", "acc") else keras.metrics.get(template)
    if hasattr(known, "named_copy"):
        return known.named_copy(name)
    if not isinstance(known, keras.Metric):
        return keras.metrics.MeanMetricWrapper(known, name=name)
    try:
        return copy_metric(known, name)
    except Exception as error:
        raise ValueError(
            f"{argument} must be copyable through their config. Implement get_config, and register "
            "custom parts with keras.saving.register_keras_serializable: "
            f"{error} Received: {argument}=[..., {known!r}]"
        ) from error


@register
def accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compute "accuracy" as Keras does: binary, sparse or categorical, by the widths."""
    if y_pred.shape[-1] == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)


def unused_name(name: str, taken: Sequence[str]) -> str:
    """Return a name that is not taken, with a number if necessary."""
    names = [name, *(f"{name}_{i}" for i in range(1, len(taken) + 1))]
    return next(free for free in names if free not in taken)
