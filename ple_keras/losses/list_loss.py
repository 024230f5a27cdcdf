"""A loss of lists, such as those of KerasRS, with a value for each list."""

from typing import Any

import keras
from keras import ops

from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._typing import Tensor
from ple_keras.labels.lists import labelled_items


@register
class ListLoss(keras.Loss):
    """The value of a loss of lists for each list, `(B,)`.

    It is wrapped in a MaskedLoss, whose examples are then lists, and which calls `encode`. One
    tensor has the labels and the mask: an item without a label has the label -1.

    Args:
        loss: A loss that takes `{"labels": ..., "mask": ...}` and scores `(B, L)`, and returns
            `(B,)`, or `(B, L)` with a value for each item.
    """

    def __init__(self, loss: Any) -> None:
        if isinstance(loss, dict):
            loss = keras.saving.deserialize_keras_object(loss)
        self.loss = loss
        super().__init__(stable_name(loss), loss.reduction, dtype=loss.dtype)

    def encode(
        self, y_true: Tensor, y_pred: Tensor, missing_label: float, where: str
    ) -> tuple[Any, Any]:
        """Return labels and scores without a mask, for `call`.

        All items of a list without a labelled item are NaN, which MaskedLoss excludes. A label is
        infinite if it is negative.
        """
        labels, scores, is_labelled = labelled_items(y_true, y_pred, missing_label, where)
        # MaskedLoss takes `missing_label` for missing.
        unlabelled = -1.0 if missing_label != -1 else -2.0
        labels = ops.where(labels < 0, float("inf"), labels)
        labels = ops.where(is_labelled, labels, unlabelled)
        has_label = ops.any(is_labelled, axis=-1, keepdims=True)
        return ops.where(has_label, labels, float("nan")), scores

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        is_labelled = y_true >= 0
        is_negative = ops.any(ops.isinf(y_true), axis=-1)
        labels = ops.where(is_labelled & ops.isfinite(y_true), y_true, -1)
        values = self.loss.call({"labels": labels, "mask": is_labelled}, y_pred)
        if len(values.shape) == 2:
            counts = ops.sum(ops.cast(is_labelled, values.dtype), axis=-1)
            values = ops.divide_no_nan(ops.sum(values, axis=-1), counts)
        # KerasRS would take a negative label for a missing one.
        return ops.where(is_negative, float("nan"), values)

    def get_config(self) -> dict[str, Any]:
        return {"loss": keras.saving.serialize_keras_object(self.loss)}
