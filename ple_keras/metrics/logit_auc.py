"""The area under the ROC curve, accurate for very small probabilities too."""

from typing import Any

import keras
from keras import ops

from ple_keras._checks import refuse_fixed
from ple_keras._keras.registration import register
from ple_keras._typing import Tensor

MAX_LOGIT = 16.0  # the limit of float32 probabilities: sigmoid(16.6) rounds to 1
MIN_LOGIT = -86.0  # the limit of products of probabilities
TAIL_SPACING = 0.25  # the spacing of logits below -MAX_LOGIT, relative to those above
MIN_POSITION = -MAX_LOGIT + TAIL_SPACING * (MIN_LOGIT + MAX_LOGIT)  # the position of MIN_LOGIT


@register
class LogitAUC(keras.metrics.AUC):
    """The area under the ROC curve of probabilities, with thresholds even in the logit.

    `keras.metrics.AUC` spaces its thresholds evenly in [0, 1]. If positives are rare, nearly all
    predictions are below the first threshold, and the area is wrong. The area is invariant to
    monotonic maps, so this metric first maps predictions to [0, 1] by their logit, from -86 to 16.
    Logits below -16, which only products of probabilities have, are spaced more closely.

    The value is NaN without a positive or without a negative label. Predictions between two
    thresholds count as equal, and the thresholds are 0.012 apart in the logit. If the logits have a
    standard deviation of 0.1 or more, the area is exact to 0.001. That of a barely trained model is
    too close to 0.5, by 0.03 of 0.24 for a deviation of 0.01.

    Args:
        num_thresholds: The number of thresholds.
        name: The metric's name.
        **kwargs: Arguments of `keras.metrics.AUC`, except `from_logits`.

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
        """Accumulate the statistics of a batch.

        Args:
            y_true: Labels, 0 or 1, `(...)` or `(..., 1)`.
            y_pred: Probabilities, `(..., 1)` or `(...)`.
            sample_weight: Weights of the examples.
        """
        y_pred = ops.clip(ops.cast(y_pred, self.dtype), 1e-37, 1 - 1e-7)
        logits = ops.log(y_pred) - ops.log1p(-y_pred)
        spread = ops.maximum(logits, -MAX_LOGIT) + TAIL_SPACING * ops.minimum(
            logits + MAX_LOGIT, 0.0
        )
        spread = ops.clip((spread - MIN_POSITION) / (MAX_LOGIT - MIN_POSITION), 0.0, 1.0)
        super().update_state(y_true, spread, sample_weight)

    def result(self) -> Tensor:
        """Return the area; NaN without a positive or without a negative label."""
        # All predictions are above the first threshold.
        positives = ops.convert_to_tensor(self.true_positives)[0]
        negatives = ops.convert_to_tensor(self.false_positives)[0]
        has_both = ops.all(ops.logical_and(positives > 0, negatives > 0))
        return ops.where(has_both, super().result(), float("nan"))
