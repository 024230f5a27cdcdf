"""The head of the probability of a positive label."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_number, refuse_fixed
from ple_keras._keras.saving import register
from ple_keras._typing import LayerLike, LossLike, MetricLike, Tensor
from ple_keras.heads.head import Head, without_keys
from ple_keras.labels.label_arrays import check_probabilities
from ple_keras.metrics.logit_auc import LogitAUC


@register
class BinaryHead(Head):
    """The probability of a positive label: `sigmoid`, `(..., H) -> (..., 1)`.

    The loss is binary cross-entropy. The metrics are `auc` and the mean of the loss,
    `binary_crossentropy` (`weighted_binary_crossentropy` with a `pos_weight`). The thresholds of
    `auc` are evenly spaced in the logit, so that it is accurate at low base rates too.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, see `Head`.
        loss: A loss of probabilities that replaces binary cross-entropy.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        pos_weight: The factor of the loss of examples with the label 1. The probabilities are then
            calibrated for the weighted data: their odds are `pos_weight` times too high.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics`, see `Head`, and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The probability of the label 1, `(..., 1)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`, and if `pos_weight` is not a number above 0.

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
        refuse_fixed(kwargs, units="1", activation="sigmoid")
        if pos_weight is not None:
            pos_weight = check_number(pos_weight, "pos_weight", above=0)
        self.pos_weight = pos_weight
        loss = keras.losses.BinaryCrossentropy() if loss is None else loss
        super().__init__(task, 1, "sigmoid", loss, metrics, tower, **kwargs)

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        losses = super().example_losses(y_true, y_pred)
        if self.pos_weight is None:
            return losses
        return losses * (1 + (self.pos_weight - 1) * ops.squeeze(y_true, -1))

    def _loss_name(self) -> str:
        name = super()._loss_name()
        return name if self.pos_weight is None else f"weighted_{name}"

    def _default_metrics(self) -> list[MetricLike]:
        return [LogitAUC()]

    def _check_values(self, labels: Tensor) -> None:
        check_probabilities(labels, self.task)

    def get_config(self) -> dict[str, Any]:
        config = without_keys(super().get_config(), "units", "activation")
        return {**config, "pos_weight": self.pos_weight}
