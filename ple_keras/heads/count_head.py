"""The head for counts, such as a number of visits."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ple_keras._keras.saving import register
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import LayerLike, MetricLike
from ple_keras.heads.head import Head, without_keys
from ple_keras.labels.label_arrays import LabelStatistics


@register
class CountHead(Head):
    """The expected value of a count: `exponential`, `(..., H) -> (..., 1)`.

    The loss is the negative log-likelihood of a Poisson distribution, without the terms that depend
    only on the label, so it can be negative. The metric is its mean, `poisson`:

        L = p - y log(p)

    `TaskHeads.adapt` sets the bias of the last Dense layer to the logarithm of the mean label, so
    that the first predictions have the size of the labels. It does not change a bias that has been
    trained or loaded.

    Args:
        task: The task's name (see `TaskHeads`).
        tower: The task's own network (see `Head`).
        metrics: Metrics that replace `poisson`. To keep it, use `extra_metrics`.
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

    >>> visits = CountHead("visits", tower=[64])
    >>> TaskHeads([visits]).adapt({"visits": [2, 7, float("nan")]})
    >>> prediction = visits(keras.ops.zeros((1, 32)))
    >>> round(float(prediction[0, 0]), 3)
    4.5
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        metrics: Sequence[MetricLike] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(task, 1, "exponential", "poisson", metrics, tower, **kwargs)

    def _adapt(self, statistics: LabelStatistics) -> None:
        super()._adapt(statistics)
        mean, known = statistics.mean.item(), self._initial_bias
        self._initial_bias = math.log(mean) if mean > 0 else known
        bias = self._projection.bias if hasattr(self, "_projection") else None
        if bias is not None and np.isclose(to_numpy(bias), known, atol=0):
            bias.assign([self._initial_bias])

    def get_config(self) -> dict[str, Any]:
        return without_keys(super().get_config(), "units", "activation", "loss")
