"""Cross-entropy relative to that of a constant prediction."""

from collections.abc import Sequence

from keras import ops

from ple_keras._keras.internals import mark_lower_as_better
from ple_keras._keras.registration import register
from ple_keras._typing import DType, Tensor
from ple_keras.losses.head_losses import crossentropy
from ple_keras.metrics._metric_of_sums import MetricOfSums


@register
class NormalizedEntropy(MetricOfSums):
    """Binary cross-entropy divided by the entropy of the base rate, for labels from 0 to 1.

        NE = (sum_i w_i l_i / sum_i w_i) / -(r log(r) + (1 - r) log(1 - r))

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
        mark_lower_as_better(self)

    def terms(self, y_true: Tensor, y_pred: Tensor) -> Sequence[Tensor]:
        return [crossentropy(y_true, y_pred), y_true, 1 - y_true]

    def result(self) -> Tensor:
        loss, positives, negatives = self.totals()
        # -r log(r) sum_i w_i, and the same for 1 - r. There is no subtraction, so that a base rate
        # near 0 or 1 loses no digits. 0 times infinity is NaN.
        entropy = positives * ops.log1p(negatives / positives)
        entropy += negatives * ops.log1p(positives / negatives)
        return loss / entropy
