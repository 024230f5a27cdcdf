"""Metrics that need all rows at once, as functions of arrays."""

from typing import Any, NoReturn

import numpy as np

from ple_keras._checks import check_int, check_known_value, short_repr
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import BinStrategy, GroupWeighting, Tensor
from ple_keras.labels.alignment import to_number_array

WEIGHTINGS = ("rows", "equal")
ROUNDING = 1e-6  # by which a probability may lie outside [0, 1]


def expected_calibration_error(
    labels: Tensor, predictions: Tensor, num_bins: int = 15, strategy: BinStrategy = "quantile"
) -> float:
    """Return the mean distance between predicted and observed frequencies, over bins.

        ECE = sum_b n_b abs(p_b - y_b) / n

    Bin b holds the n_b of n examples whose predictions lie in an interval. p_b is the mean of
    their predictions, and y_b that of their labels. 0 is best. Quantiles need all examples at once,
    so this is not a metric for `compile`.

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
    y, p = _label_rows(labels, predictions)
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    _check_labels(y, (y < 0) | (y > 1), "lie in [0, 1]")
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


def grouped_auc(
    labels: Tensor, predictions: Tensor, groups: Tensor, weighting: GroupWeighting = "rows"
) -> float:
    """Return the mean over groups of the area under the ROC curve within each group.

        GAUC = sum_g w_g AUC_g / sum_g w_g

    A group is a user or a query, for example. The AUC over all rows also compares rows of different
    groups, which are never ranked together. The sums are over the groups that have both labels, 0
    and 1. A pair with equal predictions counts one half.

    Args:
        labels: Labels 0 and 1, `(N,)` or `(N, 1)`. NaN is a missing label, which is left out.
        predictions: Predictions, `(N,)` or `(N, 1)`.
        groups: The group of each row: integers or strings, `(N,)`. If labels are `(N, L)`, all L
            belong to the group of the row.
        weighting: "rows" to weight a group by the number of its labeled rows, "equal" for equal
            weights.

    Returns:
        A float; NaN if no group has both labels, or a prediction of a labeled row is NaN.

    Raises:
        TypeError: If labels or predictions are not numbers, or groups are neither integers nor
            strings.
        ValueError: If a label is neither 0, 1 nor NaN, a group is missing, the arrays have
            different numbers of rows, or `weighting` is unknown.

    Reference:

    - Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017.
      [arXiv:1703.02091](https://arxiv.org/abs/1703.02091)

    Example:

    >>> users = ["ann", "ann", "bob", "bob", "bob"]  # with an AUC of 1 and of 1/2
    >>> grouped_auc([0, 1, 0, 1, 1], [0.1, 0.2, 0.8, 0.7, 0.9], users)
    0.7
    """
    check_known_value(weighting, WEIGHTINGS, "weighting")
    y, p = _label_rows(labels, predictions)
    indices = group_indices(groups, rows=len(np.atleast_1d(to_numpy(labels))))
    return GroupedLabels(y, indices).auc(p, weighting)


def group_indices(groups: Tensor, rows: int) -> np.ndarray:
    """Return the group of each row as an index from 0.

    Raises:
        TypeError: If groups are neither integers nor strings.
        ValueError: If their shape is not `(rows,)`, or a group is missing.
    """
    is_list = isinstance(groups, list | tuple)  # NumPy would turn 1 and "1" into equal strings
    array = np.asarray(groups, object) if is_list else to_numpy(groups)
    if array.shape != (rows,):
        raise ValueError(
            f"groups must have one entry for each row of the labels, a shape ({rows},). "
            f"Received: groups.shape={array.shape}"
        )
    if array.dtype.kind in "iu":
        return np.unique(array, return_inverse=True)[1]
    names: list[Any] = array.tolist()
    wrong = [name for name in names if not _is_name(name)]
    if wrong:
        _refuse_names(wrong)
    indices: dict[Any, int] = {}  # faster than sorting strings
    return np.array([indices.setdefault(name, len(indices)) for name in names], dtype="int64")


def _is_name(name: object) -> bool:
    return isinstance(name, str | bytes | int | np.integer) and not isinstance(name, bool)


def _refuse_names(names: list[object]) -> NoReturn:
    missing = [name for name in names if str(name) in ("None", "nan", "NaT", "<NA>")]
    if missing:
        raise ValueError(
            "groups must have one group for each row, without missing entries. Leave out the rows "
            f"without a group. Received: groups=[..., {missing[0]}]"
        )
    raise TypeError(
        "groups must be integers or strings. Convert whole numbers with astype('int64'). "
        f"Received: groups=[..., {short_repr(names[0])}]"
    )


class GroupedLabels:
    """Labels in groups, for the AUC of many predictions.

    Args:
        labels: Labels 0 and 1, `(N,)`, with NaN for missing labels.
        indices: The index of the group of each row, `(R,)`; N is a multiple of R.
        argument: The name of the labels in messages.

    Attributes:
        share: The share of the labeled rows in groups with both labels; NaN without labels.
    """

    def __init__(self, labels: np.ndarray, indices: np.ndarray, argument: str = "labels") -> None:
        indices = np.repeat(indices, len(labels) // max(len(indices), 1))
        is_labeled = ~np.isnan(labels)
        wrong = is_labeled & (labels != 0) & (labels != 1)
        _check_labels(labels, wrong, "be 0 or 1", argument)
        counts = np.bincount(indices[is_labeled])
        positives = np.bincount(indices[labels == 1], minlength=len(counts))
        has_both = (positives > 0) & (positives < counts)
        is_used = is_labeled.copy()
        is_used[is_labeled] = has_both[indices[is_labeled]]
        self._is_used = is_used
        self._is_positive = labels[is_used] == 1
        self._indices = (np.cumsum(has_both) - 1)[indices[is_used]]
        self._counts, self._positives = counts[has_both], positives[has_both]
        labeled = np.count_nonzero(is_labeled)
        self.share = float(self._counts.sum() / labeled) if labeled else float("nan")

    def auc(self, predictions: np.ndarray, weighting: GroupWeighting) -> float:
        """Return the weighted mean of the AUC of the groups, see `grouped_auc`."""
        predictions = predictions[self._is_used]
        if not len(predictions) or np.isnan(predictions).any():
            return float("nan")
        sums = np.bincount(self._indices[self._is_positive], self._ranks(predictions))
        least = self._positives * (self._positives + 1) / 2
        areas = (sums - least) / (self._positives * (self._counts - self._positives))
        return float(np.average(areas, weights=self._counts if weighting == "rows" else None))

    def _ranks(self, predictions: np.ndarray) -> np.ndarray:
        """Return the rank of each positive row within its group, from 1; the mean rank of ties."""
        order = np.lexsort((predictions, self._indices))
        groups, sorted_predictions = self._indices[order], predictions[order]
        is_tie = sorted_predictions[1:] == sorted_predictions[:-1]
        is_new = np.append(True, ~is_tie | (groups[1:] != groups[:-1]))
        starts = np.flatnonzero(is_new)  # of rows with one group and one prediction
        ends = np.append(starts[1:], len(order))
        means = np.repeat((starts + ends + 1) / 2, ends - starts)
        before = np.cumsum(self._counts) - self._counts  # rows in earlier groups
        ranks = np.empty(len(order))
        ranks[order] = means - before[groups]
        of_positives: np.ndarray = ranks[self._is_positive]
        return of_positives


def _label_rows(labels: Tensor, predictions: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions as float arrays `(N,)`, from `(...)` or `(..., 1)`.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If their numbers of entries differ.
    """
    y, p = to_number_array(labels, "labels"), to_number_array(predictions, "predictions")
    if _without_last_axis(y.shape) != _without_last_axis(p.shape):
        raise ValueError(
            "labels must have one entry for each prediction. "
            f"Received: labels.shape={y.shape}, predictions.shape={p.shape}"
        )
    return y.ravel().astype("float64"), p.ravel().astype("float64")  # float64 keeps all ties


def _without_last_axis(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without a last axis of length 1."""
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape


def _check_labels(
    labels: np.ndarray, wrong: np.ndarray, rule: str, argument: str = "labels"
) -> None:
    """Raise an error if any label is wrong."""
    if wrong.any():
        raise ValueError(
            f"{argument} must {rule} or be missing. Received: {argument}=[..., {labels[wrong][0]}]"
        )
