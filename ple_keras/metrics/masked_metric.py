"""A metric over labeled examples."""

import math
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from ple_keras._checks import check_known
from ple_keras._keras.copying import copy_metric
from ple_keras._keras.internals import is_from_keras
from ple_keras._keras.names import stable_name, to_snake_case
from ple_keras._keras.saving import register
from ple_keras._typing import Config, MetricLike, Streams, Tensor
from ple_keras.labels.sample_space import (
    LabeledExamples,
    align_weights,
    check_missing_label,
    find_labeled,
    to_config,
)
from ple_keras.metrics.sums import MetricOfSums

# Keras metrics that do not depend on which numbers form a label:
NUMBER_METRICS = {"auc", "binary_accuracy", "binary_crossentropy", "mean_absolute_error"}
NUMBER_METRICS |= {"mean_squared_error", "poisson", "root_mean_squared_error"}


@register
class MaskedMetric(keras.Metric):
    """A wrapper that computes any metric only over labeled examples, for a plain `keras.Model`.

    The metrics of TaskHeads are computed in the same way, without this class.

    Args:
        metric: A name, a function or a `keras.metrics.Metric`. Its `update_state` must accept
            `sample_weight`, which is 0 where the label is missing.
        missing_label: The value of a missing label, in addition to NaN. Single numbers of a label
            can be missing for `LogitAUC`, `NormalizedEntropy`, `Calibration`, and Keras's squared
            and absolute errors, `BinaryCrossentropy`, `Poisson`, `BinaryAccuracy` and `AUC`. For
            other metrics, a label is missing if any of its numbers is (see `MaskedLoss`).
        name: The metric's name; by default the name of `metric`.

    Raises:
        TypeError: If `metric` has any other type, or `missing_label` is not a number.
        ValueError: If `metric` is unknown.

    Example:

    >>> metric = MaskedMetric("mean_absolute_error")
    >>> metric.update_state([[1.0], [float("nan")], [3.0]], [[2.0], [5.0], [5.0]])
    >>> float(metric.result())
    1.5
    """

    def __init__(
        self, metric: MetricLike, missing_label: float = math.nan, name: str | None = None
    ) -> None:
        (metric,) = check_metrics([metric], "metric")
        if not isinstance(metric, keras.Metric):
            metric = new_metric(metric, stable_name(metric))
        super().__init__(name=name or metric.name)
        self.metric = metric
        self.missing_label = check_missing_label(missing_label)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Accumulate the labeled examples of a batch.

        Args:
            y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`.
            y_pred: Predictions, `(..., units)`.
            sample_weight: Weights of the examples.
        """
        where = f" of {self.name!r}"
        labeled = find_labeled(y_true, y_pred, [self.missing_label], where=where)
        labeled = labeled._replace(predictions=ops.stop_gradient(labeled.predictions))
        update_metric(self.metric, labeled, sample_weight, where)

    def result(self) -> Tensor:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()

    def get_config(self) -> Config:
        return {
            "metric": keras.saving.serialize_keras_object(self.metric),
            "missing_label": to_config(self.missing_label),
            "name": self.name,
        }


def update_metric(
    metric: keras.Metric, labeled: LabeledExamples, sample_weight: Tensor = None, where: str = ""
) -> None:
    """Update a metric with the labeled examples of a batch.

    Args:
        metric: The metric.
        labeled: The examples, with predictions that have no gradient.
        sample_weight: Weights of the examples.
        where: Text after the name in messages, such as " of 'click_auc'".

    Raises:
        ValueError: If the metric does not accept the labels and predictions.
    """
    y_true, y_pred, missing = labeled.labels, labeled.predictions, labeled.missing
    weights = None
    if sample_weight is not None:
        weights = align_weights(sample_weight, y_pred.shape[:-1], where)
        weights = ops.expand_dims(ops.cast(weights, metric.dtype), -1)
    if missing is not None:
        kind = type(metric)
        is_known = is_from_keras(kind) and to_snake_case(kind.__name__) in NUMBER_METRICS
        is_elementwise = is_known or isinstance(metric, MetricOfSums)
        if missing.shape[-1] != 1 and not is_elementwise:
            missing = ops.any(missing, axis=-1, keepdims=True)
        counted = ops.cast(ops.logical_not(missing), metric.dtype)
        weights = counted if weights is None else ops.where(missing, 0 * counted, weights)
        has_columns = isinstance(metric, MetricOfSums) or getattr(metric, "multi_label", False)
        if missing.shape[-1] != 1 and not has_columns:
            y_true, y_pred, weights = (ops.reshape(x, (-1, 1)) for x in (y_true, y_pred, weights))
    if weights is not None and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    call_metric(metric, y_true, y_pred, weights, where)


def call_metric(
    metric: keras.Metric, y_true: Streams, y_pred: Tensor, weights: Tensor | None, where: str
) -> None:
    """Call `update_state` of a metric, and explain an error."""
    try:
        metric.update_state(y_true, y_pred, sample_weight=weights)
    except Exception as error:
        raise ValueError(
            "metrics must accept labels and predictions, and a function must return a value for "
            f"each example. The update{where} failed: {error} Received: metric={metric!r}"
        ) from error


def check_metrics(
    metrics: Sequence[MetricLike] | None, argument: str = "metrics"
) -> list[MetricLike]:
    """Return metrics from names, functions, objects or serialized objects.

    Args:
        metrics: The metrics; None for an empty list.
        argument: The name of the caller's argument, for messages.
    """
    if isinstance(metrics, str) or not isinstance(metrics, Sequence | None):
        raise TypeError(f"{argument} must be a list of metrics. Received: {argument}={metrics!r}")
    metrics = metrics or ()
    known = [check_known(keras.metrics.get, metric, argument) for metric in metrics]
    pairs = zip(known, metrics)
    return [x if isinstance(metric, Mapping | type) else metric for x, metric in pairs]


def new_metric(template: MetricLike, name: str) -> keras.Metric:
    """Return a new metric from a name, a function or a metric, as `Model.compile` does."""
    known = accuracy if template in ("accuracy", "acc") else keras.metrics.get(template)
    if isinstance(known, keras.Metric):
        return copy_metric(known, name, "metrics")
    return keras.metrics.MeanMetricWrapper(known, name=name)


@register
def accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compute "accuracy" as in Keras: binary, sparse or categorical, depending on the widths."""
    if y_pred.shape[-1] == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)
