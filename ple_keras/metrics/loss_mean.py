"""The mean of a loss as a metric."""

from typing import Any

import keras
from keras import ops

from ple_keras._keras.internals import mark_lower_as_better
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._typing import LossLike, Tensor
from ple_keras.labels.sample_space import example_weights
from ple_keras.losses.masked_loss import check_loss, example_losses, ignored_class


@register
class LossMean(keras.metrics.Mean):
    """The mean of a loss over the examples of an epoch.

    Keras's `loss` is the mean of batch means. It weighs batches with few and many labels equally.

    Args:
        loss: A name, a function or a `keras.losses.Loss`.
        **kwargs: Arguments of `keras.metrics.Mean`.
    """

    def __init__(self, loss: LossLike, **kwargs: Any) -> None:
        self.loss = check_loss(loss)
        super().__init__(**{"name": stable_name(self.loss), **kwargs})
        mark_lower_as_better(self)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Accumulate a batch, with labels and predictions that a MaskedMetric has aligned.

        Args:
            y_true: Labels, `(...)` or `(..., units)`.
            y_pred: Predictions, `(..., units)`.
            sample_weight: Weights of the examples, `(...)`, or of their numbers, `(..., units)`.
        """
        y_true, y_pred = (ops.cast(y, self.dtype) for y in (y_true, y_pred))
        is_ignored = ignored_class(self.loss, y_true, y_pred)
        if is_ignored is not None:
            space = ops.logical_not(is_ignored)
            sample_weight = example_weights(sample_weight, space, y_pred.shape[:-1], self.dtype)
        by_element = sample_weight is not None and len(sample_weight.shape) == len(y_pred.shape)
        losses = example_losses(self.loss, y_true, y_pred, by_element)
        super().update_state(losses, sample_weight)

    def named_copy(self, name: str) -> "LossMean":
        """Return a new metric of the same loss, which need not be serializable."""
        return LossMean(self.loss, name=name)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}
