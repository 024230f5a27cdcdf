"""The expected calibration error of probabilities."""

import numpy as np

from ple_keras._checks import check_int, check_known_value
from ple_keras._typing import BinStrategy, Tensor
from ple_keras.metrics._label_rows import check_valid, label_rows

ROUNDING = 1e-6  # by which a probability may lie outside [0, 1]


def expected_calibration_error(
    labels: Tensor, predictions: Tensor, num_bins: int = 15, strategy: BinStrategy = "quantile"
) -> float:
    """Return the mean distance between predicted and observed frequencies, over bins.

        ECE = sum_b n_b / n |mean of p in b - mean of y in b|

    Bin b holds the n_b examples whose predictions lie in an interval. 0 is best. Quantiles
    need all examples at once, so this is not a metric for `compile`.

    Args:
        labels: Labels from 0 to 1, `(N,)` or `(N, 1)`. NaN is a missing label, which is left out.
        predictions: Probabilities, `(N,)` or `(N, 1)`.
        num_bins: The number of bins.
        strategy: "quantile" for bins with about equal numbers of examples, or "uniform" for bins
            of equal width in [0, 1]. An interval contains its upper limit. Equal predictions are in
            one bin.

    Returns:
        A float in [0, 1]; NaN if there is no label, or a prediction is NaN.

    Raises:
        TypeError: If labels or predictions are not numbers, or `num_bins` is not an integer.
        ValueError: If labels or predictions are outside [0, 1], or their numbers differ. If
            `num_bins` is below 1, or `strategy` is unknown. Predictions up to 1e-6 outside are
            clipped.

    Reference:

    - Naeini, Cooper, Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning",
      AAAI 2015. [doi:10.1609/aaai.v29i1.9602](https://doi.org/10.1609/aaai.v29i1.9602)

    Example:

    >>> round(expected_calibration_error([0, 0, 1, 1], [0.1, 0.1, 0.8, 0.8], num_bins=2), 4)
    0.15
    """
    num_bins = check_int(num_bins, "num_bins", minimum=1)
    check_known_value(strategy, ("quantile", "uniform"), "strategy")
    y, p = label_rows(labels, predictions)
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    check_valid(y, (y < 0) | (y > 1), "lie in [0, 1]")
    wrong = (p < -ROUNDING) | (p > 1 + ROUNDING)
    if wrong.any():
        raise ValueError(
            f"predictions must lie in [0, 1]. Received: predictions=[..., {p[wrong][0]}]"
        )
    p = np.clip(p, 0, 1)
    if not len(y) or np.isnan(p).any():
        return float("nan")
    inner_limits = np.linspace(0, 1, num_bins + 1)[1:-1]
    if strategy == "quantile":
        inner_limits = np.quantile(p, inner_limits)
    bins = np.searchsorted(inner_limits, p)
    differences = np.bincount(bins, weights=p - y)  # times the numbers of examples
    return float(np.abs(differences).sum() / len(y))
