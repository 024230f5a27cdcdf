"""The area under the ROC curve, accurate for very small probabilities too."""

import keras
from keras import ops

from ple_keras._keras.internals import mark_direction
from ple_keras._keras.saving import register
from ple_keras._typing import DType, Tensor
from ple_keras.labels.alignment import align
from ple_keras.labels.sample_space import align_weights

NUM_BINS = 2**12
MIN_LOGIT, MAX_LOGIT = -86.0, 16.0  # of products of probabilities, and of float32 probabilities
USUAL = (-12.0, 6.0)  # other logits are counted in wider intervals
TAIL_SCALE = 0.1
FIRST = USUAL[0] + TAIL_SCALE * (MIN_LOGIT - USUAL[0])  # the smallest scaled logit
LAST = USUAL[1] + TAIL_SCALE * (MAX_LOGIT - USUAL[1])
BINS_PER_LOGIT = (NUM_BINS - 1) / (LAST - FIRST)


@register
class LogitAUC(keras.Metric):
    """The area under the ROC curve of probabilities, from histograms of their logits.

    `keras.metrics.AUC` spaces its thresholds evenly in [0, 1]. If positives are rare, nearly all
    predictions are below the first threshold, and the area is wrong. The area is invariant to
    monotonic maps, so this metric counts the positives and negatives in 4,096 intervals of the
    logit. They have a width of 0.007 from -12 to 6, and of 0.07 outside.

    The value is NaN without a positive or without a negative label. Predictions in one interval
    count as equal. If the logits have a standard deviation of 0.1 or more, the area is exact to
    0.001 with 500 positives, and to 0.01 with three. A label between 0 and 1 counts as both, with
    the label as the weight of the positive one.

    Args:
        name: The metric's name.
        dtype: The dtype of the result; None for Keras's default.

    Example:

    >>> auc = LogitAUC()
    >>> auc.update_state([0, 0, 1, 1], [1e-5, 4e-5, 2e-5, 9e-5])
    >>> round(float(auc.result()), 3)
    0.75
    """

    def __init__(self, name: str = "auc", dtype: DType = None) -> None:
        super().__init__(name=name, dtype=dtype)
        mark_direction(self, "up")
        self._counts = self.add_variable((2, NUM_BINS), "zeros", self.dtype, name="counts")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Count the examples of a batch.

        Args:
            y_true: Labels from 0 to 1, `(...)` or `(..., 1)`.
            y_pred: Probabilities, `(..., 1)` or `(...)`.
            sample_weight: Weights of the examples.
        """
        y_true, y_pred = (ops.cast(y, self.dtype) for y in align(y_true, y_pred))
        weights = ops.ones_like(y_pred)
        if sample_weight is not None:
            given = align_weights(ops.cast(sample_weight, self.dtype), y_pred.shape[:-1])
            weights = weights * ops.expand_dims(given, -1)
        y_true, y_pred, weights = (ops.reshape(x, (-1,)) for x in (y_true, y_pred, weights))
        y_pred = ops.clip(y_pred, 1e-37, 1 - 1e-7)
        logits = ops.log(y_pred) - ops.log1p(-y_pred)
        tail, usual = BINS_PER_LOGIT * TAIL_SCALE, BINS_PER_LOGIT * (1 - TAIL_SCALE)
        bins = logits * tail + ops.clip(logits, *USUAL) * usual - BINS_PER_LOGIT * FIRST
        bins = ops.cast(ops.nan_to_num(bins), "int32")
        weights = weights + 0 * y_pred  # the area of a NaN is NaN
        counts = ops.concatenate([weights * y_true, weights * (1 - y_true)])
        sums = ops.segment_sum(counts, ops.concatenate([bins, bins + NUM_BINS]), 2 * NUM_BINS)
        self._counts.assign_add(ops.reshape(sums, (2, NUM_BINS)))

    def result(self) -> Tensor:
        """Return the area; NaN without a positive or without a negative label."""
        positives, negatives = ops.unstack(ops.convert_to_tensor(self._counts), 2)
        below = ops.cumsum(negatives) - negatives / 2
        pairs = ops.sum(positives) * ops.sum(negatives)
        return ops.sum(positives * below) / ops.where(pairs == 0, float("nan"), pairs)
