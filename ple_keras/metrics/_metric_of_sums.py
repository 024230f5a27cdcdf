"""A base class of metrics that are computed from sums over examples."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ple_keras._typing import DType, Tensor
from ple_keras.labels.alignment import align
from ple_keras.labels.sample_space import example_weights


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
        weights = example_weights(sample_weight, None, y_pred.shape[:-1], self.dtype)
        terms = self.terms(y_true, y_pred)
        if weights is not None:
            terms = [term * ops.expand_dims(weights, -1) for term in terms]
        self._add(ops.stack([_sum(term) for term in terms]))

    def _add(self, values: Tensor) -> None:
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


def _sum(values: Tensor) -> Tensor:
    """Return the sum of all values.

    A plain sum of 100,000 equal float32 values is wrong by up to 6e-5 of it, depending on the
    backend. The deviations from its mean have a small sum, which corrects it.
    """
    count = ops.maximum(ops.cast(ops.size(values), values.dtype), 1)
    mean = ops.sum(values) / count
    return mean * count + ops.sum(values - mean)
