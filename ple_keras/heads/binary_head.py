"""The head of a task that is yes or no."""

from collections.abc import Sequence
from typing import Any

import keras

from ple_keras._checks import refuse_fixed
from ple_keras._keras.registration import register
from ple_keras._typing import LayerLike, LossLike, MetricLike, Tensor
from ple_keras.heads.head import Head, without_keys
from ple_keras.labels.label_arrays import check_probabilities
from ple_keras.losses.positive_weight_loss import PositiveWeightLoss
from ple_keras.metrics.logit_auc import LogitAUC
from ple_keras.metrics.loss_mean import LossMean


@register
class BinaryHead(Head):
    """The probability of a yes: `sigmoid`, `(..., H) -> (..., 1)`.

    The loss is binary cross-entropy. The metrics are `auc`, whose thresholds lie evenly in the
    logit and which therefore holds at low base rates too, and the mean of the loss,
    `binary_crossentropy` (`weighted_binary_crossentropy` with a `pos_weight`).

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        loss: In place of binary cross-entropy: a loss of probabilities.
        metrics: In place of the metrics above.
        pos_weight: How many times an example with the label 1 counts in the loss. It shifts the
            predicted probabilities: calibrated for the weighted data, the odds are `pos_weight`
            times too high.
        **kwargs: `loss_weight`, `missing_label` and `reduction` as for `Head`, and Keras's own
            layer arguments.

    Raises:
        TypeError, ValueError: as `Head`; and if `pos_weight` is no number above 0.

    Example:

    >>> tuple(BinaryHead("click", tower=[64])(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        pos_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(kwargs, "units", "1")
        refuse_fixed(kwargs, "activation", "sigmoid")
        if loss is None:
            loss = keras.losses.BinaryCrossentropy()
        self.pos_weight = pos_weight
        if pos_weight is not None:
            loss = PositiveWeightLoss(loss, pos_weight)
        if metrics is None:
            metrics = [LogitAUC(), LossMean(loss)]
        super().__init__(task, 1, "sigmoid", loss, metrics, tower, **kwargs)

    def _check_values(self, labels: Tensor) -> None:
        check_probabilities(labels, self.task)

    def get_config(self) -> dict[str, Any]:
        config = without_keys(super().get_config(), "units", "activation")
        if self.pos_weight is not None:
            config["loss"] = keras.saving.serialize_keras_object(self.loss.loss)
        return {**config, "pos_weight": self.pos_weight}
