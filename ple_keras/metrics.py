"""Metrics of the heads."""

from typing import Any

import keras
from keras import ops

from ple_keras._registration import register

MAX_LOGIT = 16.0  # float32 probabilities hold no more: sigmoid(16.6) rounds to 1


@register
class LogitAUC(keras.metrics.AUC):
    """The area under the ROC curve of probabilities, with thresholds even in the logit.

    Stock `keras.metrics.AUC` spaces its thresholds evenly in [0, 1]. Where positives are rare
    nearly all predictions fall below the first of them, and the area is far off. The area does
    not change under a monotonic map, so this metric spreads the predictions first, by their
    logit, over [0, 1].

    Args:
        num_thresholds: The number of thresholds between the logits -16 and 16.
        name: The metric's name.
        **kwargs: Arguments of `keras.metrics.AUC`.

    Example:

    >>> auc = LogitAUC()
    >>> auc.update_state([0, 0, 1, 1], [1e-5, 4e-5, 2e-5, 9e-5])
    >>> round(float(auc.result()), 3)
    0.75
    """

    def __init__(self, num_thresholds: int = 2000, name: str = "auc", **kwargs: Any) -> None:
        super().__init__(num_thresholds=num_thresholds, name=name, **kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch.

        Args:
            y_true: Labels, 0 or 1, `(...)` or `(..., 1)`.
            y_pred: Probabilities, `(..., 1)` or `(...)`.
            sample_weight: Weights of the examples.
        """
        y_pred = ops.clip(ops.cast(y_pred, self.dtype), 1e-7, 1 - 1e-7)
        logits = ops.log(y_pred) - ops.log1p(-y_pred)
        spread = ops.clip(logits / (2 * MAX_LOGIT) + 0.5, 0.0, 1.0)
        super().update_state(y_true, spread, sample_weight)


@register
class BinaryCrossentropy(keras.metrics.BinaryCrossentropy):
    """Keras's binary cross-entropy, which also takes labels `(...)` for predictions `(..., 1)`.

    Keras's loss takes them, its metric doesn't.

    Args:
        **kwargs: Arguments of `keras.metrics.BinaryCrossentropy`.
    """

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch; arguments as for `LogitAUC.update_state`."""
        y_true = ops.convert_to_tensor(y_true)
        if len(y_true.shape) == len(y_pred.shape) - 1:
            y_true = ops.expand_dims(y_true, -1)
        super().update_state(y_true, y_pred, sample_weight)
