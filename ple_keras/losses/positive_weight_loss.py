"""A loss with a weight for positive examples."""

from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_number
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._typing import LossLike, Tensor
from ple_keras.labels.alignment import align
from ple_keras.losses.checks import SUM_OVER_BATCH_SIZE, check_loss
from ple_keras.losses.example_losses import example_losses


@register
class PositiveWeightLoss(keras.Loss):
    """A loss of probabilities, multiplied by `pos_weight` for examples with the label 1.

    Args:
        loss: The loss of an example.
        pos_weight: A number above 0.
    """

    def __init__(self, loss: LossLike, pos_weight: float) -> None:
        self.loss = check_loss(loss)
        self.pos_weight = check_number(pos_weight, "pos_weight")
        if self.pos_weight <= 0:
            raise ValueError(f"pos_weight must be above 0. Received: pos_weight={pos_weight!r}")
        reduction = getattr(self.loss, "reduction", SUM_OVER_BATCH_SIZE)
        super().__init__(f"weighted_{stable_name(self.loss)}", reduction)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = align(y_true, y_pred)
        weights = 1 + (self.pos_weight - 1) * ops.squeeze(y_true, -1)
        return weights * example_losses(self.loss, y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        loss = keras.saving.serialize_keras_object(self.loss)
        return {"loss": loss, "pos_weight": self.pos_weight}
