"""The area under the ROC curve, for probabilities of any size."""

from typing import Any

import keras
from keras import ops

from ple_keras._checks import refuse_fixed
from ple_keras._keras.registration import register
from ple_keras._typing import Tensor

MAX_LOGIT = 16.0  # float32 probabilities hold no more: sigmoid(16.6) rounds to 1
MIN_LOGIT = -86.0  # nor less, as those of products are
TAIL = 0.25  # how far apart logits below -MAX_LOGIT are spread, next to those above it
LOWEST = -MAX_LOGIT + TAIL * (MIN_LOGIT + MAX_LOGIT)  # where MIN_LOGIT comes to lie


@register
class LogitAUC(keras.metrics.AUC):
    """The area under the ROC curve of probabilities, with thresholds even in the logit.

    Stock `keras.metrics.AUC` spaces its thresholds evenly in [0, 1]. Where positives are rare
    nearly all predictions fall below the first of them, and the area is far off. The area does
    not change under a monotonic map, so this metric spreads the predictions first, by their
    logit, over [0, 1]: from -86 to 16, more closely below -16, where only products of
    probabilities lie.

    Args:
        num_thresholds: The number of thresholds.
        name: The metric's name.
        **kwargs: Arguments of `keras.metrics.AUC` but `from_logits`.

    Example:

    >>> auc = LogitAUC()
    >>> auc.update_state([0, 0, 1, 1], [1e-5, 4e-5, 2e-5, 9e-5])
    >>> round(float(auc.result()), 3)
    0.75
    """

    def __init__(self, num_thresholds: int = 4000, name: str = "auc", **kwargs: Any) -> None:
        if kwargs.get("from_logits"):
            refuse_fixed(kwargs, "from_logits", "False, for probabilities")
        super().__init__(num_thresholds=num_thresholds, name=name, **kwargs)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Count a batch.

        Args:
            y_true: Labels, 0 or 1, `(...)` or `(..., 1)`.
            y_pred: Probabilities, `(..., 1)` or `(...)`.
            sample_weight: Weights of the examples.
        """
        y_pred = ops.clip(ops.cast(y_pred, self.dtype), 1e-37, 1 - 1e-7)
        logits = ops.log(y_pred) - ops.log1p(-y_pred)
        spread = ops.maximum(logits, -MAX_LOGIT) + TAIL * ops.minimum(logits + MAX_LOGIT, 0.0)
        spread = ops.clip((spread - LOWEST) / (MAX_LOGIT - LOWEST), 0.0, 1.0)
        super().update_state(y_true, spread, sample_weight)
