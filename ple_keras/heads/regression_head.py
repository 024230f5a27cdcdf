"""The head of a task that is a number."""

from collections.abc import Sequence
from typing import Any

import keras

from ple_keras._keras.registration import register
from ple_keras._typing import Activation, LayerLike, LossLike, MetricLike
from ple_keras.heads.head import Head
from ple_keras.metrics.loss_mean import LossMean


@register
class RegressionHead(Head):
    """A number, or several: linear, `(..., H) -> (..., units)`.

    The loss is the mean squared error; the metrics are its root, `rmse`, and itself,
    `mean_squared_error`.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        units: How many numbers.
        activation: In place of linear, such as "softplus" where targets are positive.
        loss: In place of the mean squared error.
        metrics: In place of the metrics above.
        **kwargs: `loss_weight`, `missing_label` and `reduction` as for `Head`, and Keras's own
            layer arguments.

    Raises:
        TypeError, ValueError: as `Head`.

    Example:

    >>> head = RegressionHead("watch_time", tower=ExpertBlock([64], activation="gelu"))
    >>> tuple(head(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        units: int = 1,
        activation: Activation = None,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        **kwargs: Any,
    ) -> None:
        if loss is None:
            loss = keras.losses.MeanSquaredError()
        if metrics is None:
            metrics = [keras.metrics.RootMeanSquaredError(name="rmse"), LossMean(loss)]
        super().__init__(task, units, activation, loss, metrics, tower, **kwargs)
