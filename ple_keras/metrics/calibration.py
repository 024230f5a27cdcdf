"""The ratio of predicted to observed positives."""

from collections.abc import Sequence

from keras import ops

from ple_keras._keras.registration import register
from ple_keras._typing import DType, Tensor
from ple_keras.metrics._metric_of_sums import MetricOfSums


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
