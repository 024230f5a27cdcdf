"""The head for counts, such as a number of visits."""

import math
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_bool
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Config, LayerLike, MetricLike, Tensor
from ple_keras.heads.head import without_keys
from ple_keras.heads.regression_head import StandardizedHead
from ple_keras.labels.label_arrays import LabelStatistics
from ple_keras.metrics.sums import PoissonDeviance


@register
class CountHead(StandardizedHead):
    """The expected value of a count: `exponential`, `(..., H) -> (..., 1)`.

    The loss is the negative log-likelihood of a Poisson distribution, without the terms that depend
    only on the label, so it can be negative. The metrics are its mean, `poisson`, and `deviance`:

        L = p - y log(p)

    With `standardize=True`, the size of the loss does not depend on the size of the counts, which
    would otherwise dominate the gradients on shared parts. With the mean m of the labels:

        L = p / m - y / m log(p / m)

    Predictions and metrics are still counts. The mean is a non-trainable weight, which
    `TaskHeads.adapt` can set at any time. Before, `fit` of a MultiTaskModel raises an error.

    `TaskHeads.adapt` sets the bias of the last Dense layer to the logarithm of the mean label, so
    that the first predictions have the size of the labels. It does not change a bias that has been
    trained or loaded.

    Args:
        task: The task's name (see `TaskHeads`).
        tower: The task's own network (see `Head`).
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        standardize: Whether to divide labels and predictions by the mean label in the loss.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The expected count, `(..., 1)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`.

    Example:

    >>> visits = CountHead("visits", tower=[64], standardize=True)
    >>> TaskHeads([visits]).adapt({"visits": [2, 7, float("nan")]})
    >>> prediction = visits(keras.ops.zeros((1, 32)))
    >>> round(float(prediction[0, 0]), 3), visits.mean
    (4.5, [4.5])
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        metrics: Sequence[MetricLike] | None = None,
        standardize: bool = False,
        **kwargs: Any,
    ) -> None:
        self.standardize = check_bool(standardize, "standardize")
        self._scale = {"mean": [math.nan]}
        super().__init__(task, 1, "exponential", "poisson", metrics, tower, **kwargs)

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.standardize:
            (mean,) = (ops.cast(weight, y_pred.dtype) for weight in self._scale_weights())
            y_true, y_pred = y_true / mean, y_pred / mean
        return super().example_losses(y_true, y_pred)

    def _default_metrics(self) -> list[MetricLike]:
        return [PoissonDeviance(), *([keras.metrics.Poisson()] if self.standardize else [])]

    def _logs_loss_mean(self) -> bool:
        return super()._logs_loss_mean() and not self.standardize

    def _adapt(self, statistics: LabelStatistics) -> None:
        super()._adapt(statistics)
        mean, known = statistics.mean.item(), self._initial_bias
        if self.standardize:
            self._set_scale(np.array([mean if mean > 0 else math.nan]))
        self._initial_bias = math.log(mean) if mean > 0 else known
        bias = self._projection.bias if hasattr(self, "_projection") else None
        if bias is not None and np.isclose(to_numpy(bias), known, atol=0):
            bias.assign([self._initial_bias])

    def get_config(self) -> Config:
        return without_keys(super().get_config(), "units", "activation", "loss")

    @classmethod
    def from_config(cls, config: Config) -> Self:
        if "standardize" not in config and config["metrics"] is None:  # a file of 0.4.0
            config = {**config, "metrics": ["poisson"]}
        return super().from_config(config)
