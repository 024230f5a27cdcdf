"""Metrics of probabilities that are computed from sums over examples."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ple_keras._keras.internals import mark_direction
from ple_keras._keras.saving import register
from ple_keras._typing import DType, Tensor
from ple_keras.labels.alignment import align
from ple_keras.labels.sample_space import align_weights
from ple_keras.losses.example_losses import crossentropy


class MetricOfSums(keras.Metric):
    """A metric that is computed from sums over examples.

    A float32 sum over millions of examples loses digits, and JAX has no float64 by default. The
    rounding errors of the additions are therefore summed too (Knuth's TwoSum).

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
        raise NotImplementedError

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Accumulate a batch.

        Args:
            y_true: Labels, `(...)` or `(..., units)`.
            y_pred: Predictions, `(..., units)` or `(...)`.
            sample_weight: Weights of the examples.
        """
        y_true, y_pred = (ops.cast(y, self.dtype) for y in align(y_true, y_pred))
        terms = self.terms(y_true, y_pred)
        if sample_weight is not None:
            weights = align_weights(ops.cast(sample_weight, self.dtype), y_pred.shape[:-1])
            terms = [term * ops.expand_dims(weights, -1) for term in terms]
        values = ops.stack([ops.sum(term) for term in terms])
        sums = ops.convert_to_tensor(self._sums)
        total = sums + values
        added = total - sums  # the part of `values` that `total` contains
        errors = (sums - (total - added)) + (values - added)
        self._sums.assign(total)
        self._errors.assign_add(errors)

    def totals(self) -> list[Any]:
        """Return the sums over all batches."""
        totals = ops.convert_to_tensor(self._sums) + ops.convert_to_tensor(self._errors)
        return list(ops.unstack(totals, totals.shape[0]))


@register
class Calibration(MetricOfSums):
    """The sum of the predictions divided by the sum of the labels: `sum_i w_i p_i / sum_i w_i y_i`.

    w_i is the sample weight of example i. 1 is best: the model predicts as many positives as there
    are. Above 1, it predicts too many. As this is a mean over all examples, errors of some can hide
    those of others; see `expected_calibration_error`.

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
        predicted, observed = self.totals()
        return predicted / ops.where(observed == 0, float("nan"), observed)


@register
class NormalizedEntropy(MetricOfSums):
    """Binary cross-entropy divided by the entropy of the base rate, for labels from 0 to 1.

        NE = sum_i w_i l_i / (H(r) sum_i w_i)
        H(r) = -r log(r) - (1 - r) log(1 - r)

    l_i is the cross-entropy of example i, w_i its sample weight, and r the weighted mean of the
    labels. Lower is better. A constant prediction of r has the value 1. Unlike cross-entropy, the
    values of tasks with different base rates are comparable.

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
        mark_direction(self, "down")

    def terms(self, y_true: Tensor, y_pred: Tensor) -> Sequence[Tensor]:
        return [crossentropy(y_true, y_pred), y_true, 1 - y_true]

    def result(self) -> Tensor:
        loss, positives, negatives = self.totals()
        # -r log(r) sum_i w_i, and the same for 1 - r. There is no subtraction, so that a base rate
        # near 0 or 1 loses no digits. 0 times infinity is NaN.
        entropy = positives * ops.log1p(negatives / positives)
        entropy += negatives * ops.log1p(positives / negatives)
        return loss / entropy
