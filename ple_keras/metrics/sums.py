"""Metrics of probabilities, counts and amounts, from sums over batches."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from ple_keras._keras.saving import register
from ple_keras._keras.tensors import clip, fill, segment_sum
from ple_keras._typing import Config, DType, Tensor
from ple_keras.labels.sample_space import align, align_weights
from ple_keras.losses.example_losses import MIN_PROBABILITY, crossentropy
from ple_keras.losses.tweedie import half_deviance

# The histograms of LogitAUC:
NUM_BINS = 2**12
MIN_LOGIT, MAX_LOGIT = -86.0, 16.0  # logits of products of probabilities, and of float32
USUAL = (-12.0, 6.0)  # other logits are counted in wider intervals
TAIL_SCALE = 0.1
FIRST = USUAL[0] + TAIL_SCALE * (MIN_LOGIT - USUAL[0])  # the smallest scaled logit
LAST = USUAL[1] + TAIL_SCALE * (MAX_LOGIT - USUAL[1])


class MetricOfSums(keras.Metric):
    """A metric that is computed from sums over examples.

    A float32 sum over millions of examples loses digits, and JAX has no float64 by default.
    Rounding errors of the additions are therefore summed, too (Knuth's TwoSum).

    Args:
        num_sums: The number of sums.
        name: The metric's name.
        dtype: The dtype of the sums.
    """

    def __init__(self, num_sums: int, name: str, dtype: DType) -> None:
        super().__init__(name=name, dtype=dtype)
        self._sums = self.add_variable((num_sums,), "zeros", self.dtype, name="sums")
        self._errors = self.add_variable((num_sums,), "zeros", self.dtype, name="errors")

    def terms(self, y_true: Tensor, y_pred: Tensor) -> Sequence[Tensor]:
        """Return the contribution of each example to each sum.

        Args:
            y_true: Labels, `(..., units)`.
            y_pred: Predictions, `(..., units)`.

        Returns:
            A list of tensors `(..., units)`.
        """
        raise NotImplementedError  # a subclass overrides this or `_batch_sums`

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Accumulate a batch.

        Args:
            y_true: Labels, `(...)` or `(..., units)`.
            y_pred: Predictions, `(..., units)` or `(...)`.
            sample_weight: Weights of the examples, or of the numbers of labels, `(..., units)`.
        """
        y_true, y_pred = (ops.cast(y, self.dtype) for y in align(y_true, y_pred))
        weights = ops.ones_like(y_pred)
        if sample_weight is not None:
            given = ops.cast(sample_weight, self.dtype)
            if len(given.shape) < len(y_pred.shape) or given.shape[-1] != y_pred.shape[-1]:
                given = ops.expand_dims(align_weights(given, y_pred.shape[:-1]), -1)
            weights = weights * given
        values = self._batch_sums(y_true, y_pred, weights)
        sums = ops.convert_to_tensor(self._sums)
        total = sums + values
        added = total - sums  # the part of `values` that `total` contains
        self._errors.assign_add((sums - (total - added)) + (values - added))
        self._sums.assign(total)

    def _batch_sums(self, y_true: Tensor, y_pred: Tensor, weights: Tensor) -> Tensor:
        """Return the sums over a batch, from tensors `(..., units)`."""
        return ops.stack([ops.sum(term * weights) for term in self.terms(y_true, y_pred)])

    def totals(self) -> Tensor:
        """Return the sums over all batches, `(num_sums,)`."""
        return ops.convert_to_tensor(self._sums) + ops.convert_to_tensor(self._errors)


@register
class Calibration(MetricOfSums):
    """The sum of the predictions divided by the sum of the labels: `sum_i w_i p_i / sum_i w_i y_i`.

    w_i is the sample weight of example i. 1 is best: the model predicts as many positives as there
    are. Above 1, it predicts too many. Since this is a ratio over all examples, errors can cancel
    out.

    The value is exact over batches. It is NaN if all labels are 0.

    Args:
        name: The metric's name.
        dtype: The dtype of the result; None for Keras's default.

    Reference:

    - He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014,
      section 2. [doi:10.1145/2648584.2648589](https://doi.org/10.1145/2648584.2648589)

    Example:

    >>> metric = Calibration()
    >>> metric.update_state([0, 0, 0, 1], [0.5, 0.5, 0.25, 0.75])
    >>> float(metric.result())
    2.0
    """

    def __init__(self, name: str = "calibration", dtype: DType = None) -> None:
        super().__init__(2, name, dtype)

    def terms(self, y_true: Tensor, y_pred: Tensor) -> Sequence[Tensor]:
        return [y_pred, y_true]

    def result(self) -> Tensor:
        predicted, observed = ops.unstack(self.totals(), 2)
        return predicted / fill(observed, observed == 0, math.nan)


@register
class NormalizedEntropy(MetricOfSums):
    """Binary cross-entropy divided by the entropy of the base rate, for labels from 0 to 1.

        NE = sum_i w_i l_i / (H(r) sum_i w_i)
        H(r) = -r log(r) - (1 - r) log(1 - r)

    l_i is the cross-entropy of example i, w_i its sample weight, and r the weighted mean of the
    labels. Lower is better, and a constant prediction of r has the value 1. Unlike cross-entropy,
    it is comparable between tasks with different base rates.

    The value is exact over batches. It is NaN if all labels are 0, or all are 1.

    Args:
        name: The metric's name.
        dtype: The dtype of the result; None for Keras's default.

    Reference:

    - He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014,
      section 2. [doi:10.1145/2648584.2648589](https://doi.org/10.1145/2648584.2648589)

    Example:

    >>> metric = NormalizedEntropy()
    >>> metric.update_state([0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25])
    >>> round(float(metric.result()), 4)
    1.0
    """

    def __init__(self, name: str = "normalized_entropy", dtype: DType = None) -> None:
        super().__init__(3, name, dtype)

    def terms(self, y_true: Tensor, y_pred: Tensor) -> Sequence[Tensor]:
        return [crossentropy(y_true, y_pred), y_true, 1 - y_true]

    def result(self) -> Tensor:
        loss, positives, negatives = ops.unstack(self.totals(), 3)
        # -r log(r) sum_i w_i, and the same for 1 - r. Without a subtraction, base rates near 0 or 1
        # lose no digits. 0 times infinity is NaN.
        entropy = positives * ops.log1p(negatives / positives)
        entropy += negatives * ops.log1p(positives / negatives)
        return loss / entropy


@register
class PoissonDeviance(MetricOfSums):
    """The deviance of expected counts: twice the difference between `poisson` and its minimum.

        D = 2 sum_i w_i (y_i log(y_i / p_i) - y_i + p_i) / sum_i w_i

    w_i is the sample weight of example i. Lower is better, and predictions of the labels themselves
    have the value 0. The value is exact over batches. It is NaN without a label.

    Args:
        name: The metric's name.
        dtype: The dtype of the result; None for Keras's default.

    Example:

    >>> metric = PoissonDeviance()
    >>> metric.update_state([0, 2], [0.5, 2.0])
    >>> float(metric.result())
    0.5
    """

    def __init__(self, name: str = "deviance", dtype: DType = None) -> None:
        super().__init__(2, name, dtype)

    def terms(self, y_true: Tensor, y_pred: Tensor) -> Sequence[Tensor]:
        # The logarithm of y / p - 1, since y log(y) - y log(p) loses the digits of large counts.
        excess = y_true - y_pred
        ratio = excess / clip(y_pred, low=MIN_PROBABILITY)
        ratio = clip(ratio, keras.config.epsilon() - 1, 1 / MIN_PROBABILITY)
        return [2 * clip(y_true * ops.log1p(ratio) - excess, low=0), ops.ones_like(y_pred)]

    def result(self) -> Tensor:
        deviance, count = ops.unstack(self.totals(), 2)
        return deviance / fill(count, count == 0, math.nan)


@register
class TweedieDeviance(PoissonDeviance):
    """The mean deviance of amounts, `sum_i w_i D_i / sum_i w_i` (see `TweedieHead`).

    Args:
        power: The power of the variance.
        name: The metric's name.
        dtype: The dtype of the result; None for Keras's default.
    """

    def __init__(self, power: float, name: str = "deviance", dtype: DType = None) -> None:
        super().__init__(name, dtype)
        self.power = power

    def terms(self, y_true: Tensor, y_pred: Tensor) -> Sequence[Tensor]:
        return [2 * half_deviance(y_true, y_pred, self.power), ops.ones_like(y_pred)]

    def get_config(self) -> Config:
        return {**super().get_config(), "power": self.power}


@register
class LogitAUC(MetricOfSums):
    """The area under the ROC curve of probabilities, from histograms of their logits.

    `keras.metrics.AUC` spaces its thresholds evenly in [0, 1]. If positives are rare, nearly all
    predictions are below the first threshold, and the area is wrong. The area is invariant to
    monotonic maps, so this metric counts the positives and negatives in 4,096 intervals of the
    logit, with a width of 0.007 from -12 to 6, and of 0.07 outside.

    The value is NaN without a positive or a negative label. Predictions in the same interval count
    as equal. If the logits lie between -12 and 6 and have a standard deviation of 0.1 or more, the
    area is exact to 0.001 with 500 positives, and to 0.01 with three. Outside, this holds for a
    standard deviation of 1 or more. A label between 0 and 1 counts as a positive with the label as
    its weight, and as a negative with the rest.

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
        super().__init__(2 * NUM_BINS, name, dtype)

    def _batch_sums(self, y_true: Tensor, y_pred: Tensor, weights: Tensor) -> Tensor:
        """Return the number of positives, and then of negatives, in each interval."""
        y_true, y_pred, weights = (ops.reshape(x, (-1, 1)) for x in (y_true, y_pred, weights))
        counts, intervals = counts_by_logit(y_true, y_pred, weights, NUM_BINS)
        return segment_sum(counts, intervals, 2 * NUM_BINS)

    def result(self) -> Tensor:
        """Return the area; NaN without a positive or a negative label."""
        found, _ = areas(self.totals(), 1)
        return found[0]


def counts_by_logit(
    y_true: Tensor, y_pred: Tensor, weights: Tensor, num_bins: int
) -> tuple[Tensor, Tensor]:
    """Return the contributions of labels to histograms of the logit, and their positions there.

    Args:
        y_true: Labels, `(examples, targets)`.
        y_pred: Probabilities.
        weights: The weights of the labels.
        num_bins: The number of intervals. A histogram of each target has the positives in these
            intervals, and then the negatives.

    Returns:
        Two tensors `(2 * examples * targets,)`.
    """
    per_logit = (num_bins - 1) / (LAST - FIRST)
    tail, usual = per_logit * TAIL_SCALE, per_logit * (1 - TAIL_SCALE)
    y_pred = clip(y_pred, MIN_PROBABILITY, 1 - 2**-23)  # logits from MIN_LOGIT to MAX_LOGIT
    logits = ops.log(y_pred) - ops.log1p(-y_pred)
    bins = logits * tail + clip(logits, *USUAL) * usual - per_logit * FIRST
    first = ops.arange(0, 2 * num_bins * y_pred.shape[-1], 2 * num_bins, dtype="int32")
    bins = ops.cast(ops.nan_to_num(bins), "int32") + first
    weights = weights + 0 * y_pred  # the area of a NaN is NaN
    counts = ops.concatenate([weights * y_true, weights * (1 - y_true)])
    positions = ops.concatenate([bins, bins + num_bins])
    return ops.reshape(counts, (-1,)), ops.reshape(positions, (-1,))


def areas(histograms: Tensor, targets: int) -> tuple[Tensor, Tensor]:
    """Return the area under the ROC curve of each target from the sums of `counts_by_logit`.

    Returns:
        The areas, NaN without a positive or a negative label; and the numbers of pairs of a
        positive and a negative label, which are then 0.
    """
    positives, negatives = ops.unstack(ops.reshape(histograms, (targets, 2, -1)), 2, axis=1)
    below = ops.cumsum(negatives, axis=-1) - negatives / 2
    pairs = ops.sum(positives, axis=-1) * ops.sum(negatives, axis=-1)
    return ops.sum(positives * below, axis=-1) / fill(pairs, pairs == 0, math.nan), pairs
