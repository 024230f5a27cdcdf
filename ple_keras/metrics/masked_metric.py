"""A metric over labelled examples."""

import inspect
import math
from typing import Any

import keras

from ple_keras._keras.internals import copy_direction
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._typing import MetricLike, Tensor
from ple_keras.labels.missing_label import check_missing_label, to_config
from ple_keras.labels.sample_space import example_weights, sample_space
from ple_keras.metrics.copies import check_metrics, new_metric


@register
class MaskedMetric(keras.Metric):
    """A wrapper that computes any metric over labelled examples only.

    Args:
        metric: A name, a function or a `keras.metrics.Metric`. Its `update_state` must accept
            `sample_weight`, which is 0 where the label is missing.
        missing_label: The value of a missing label, in addition to NaN. A label of several
            numbers is missing if any of them is.
        name: The metric's name; by default that of `metric`.

    Raises:
        TypeError: If `metric` has another type, or `missing_label` is not a number.
        ValueError: If `metric` is unknown, or does not accept `sample_weight`.

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
            metric = new_metric(metric, stable_name(metric))
        super().__init__(name=name or metric.name)
        self.metric = metric
        self.display_name = self.name  # for messages; a head prepends its task
        self.missing_label = check_missing_label(missing_label)
        self._check_takes_weights()
        copy_direction(metric, self)

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
        y_true, y_pred, in_space = sample_space(y_true, y_pred, self.missing_label, where=where)
        weights = example_weights(
            sample_weight, in_space, y_pred.shape[:-1], self.metric.dtype, where
        )
        try:
            self.metric.update_state(y_true, y_pred, sample_weight=weights)
        except Exception as error:
            raise ValueError(
                "metric must accept labels and predictions, and a function must return a value for "
                f"each example. {self.display_name!r} failed: {error} "
                f"Received: metric={self.metric!r}"
            ) from error

    def result(self) -> Tensor:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        return {
            "metric": keras.saving.serialize_keras_object(self.metric),
            "missing_label": to_config(self.missing_label),
            "name": self.name,
        }
