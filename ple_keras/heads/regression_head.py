"""The head of a regression task."""

from collections.abc import Sequence
from typing import Any

import keras

from ple_keras._keras.registration import register
from ple_keras._typing import Activation, LayerLike, LossLike, MetricLike
from ple_keras.heads.head import Head
from ple_keras.metrics.loss_mean import LossMean


@register
class RegressionHead(Head):
    """A prediction of one or more numbers: linear, `(..., H) -> (..., units)`.

    The loss is the mean squared error. The metrics are its root, `rmse`, and the error itself,
    `mean_squared_error`.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, see `Head`.
        units: The number of predicted numbers.
        activation: An activation that replaces linear, such as "softplus" for positive targets.
        loss: A loss that replaces the mean squared error.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics`, see `Head`, and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The prediction, `(..., units)`, at least float32.

    Raises:
        TypeError, ValueError: See `Head`.

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
