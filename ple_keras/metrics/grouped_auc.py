"""The area under the ROC curve within groups."""

from typing import Any, NoReturn

import numpy as np

from ple_keras._checks import check_known_value, short_repr
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Tensor
from ple_keras.metrics._label_rows import check_valid, label_rows

WEIGHTINGS = ("rows", "equal")


def grouped_auc(
    labels: Tensor, predictions: Tensor, groups: Tensor, weighting: str = "rows"
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
        weighting: "rows" to weight a group by the number of its labelled rows, "equal" for equal
            weights.

    Returns:
        A float; NaN if no group has both labels, or a prediction of a labelled row is NaN.

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
    y, p = label_rows(labels, predictions)
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


def _refuse_names(names: list[Any]) -> NoReturn:
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
        share: The share of the labelled rows in groups with both labels; NaN without labels.
    """

    def __init__(self, labels: np.ndarray, indices: np.ndarray, argument: str = "labels") -> None:
        indices = np.repeat(indices, len(labels) // max(len(indices), 1))
        is_labelled = ~np.isnan(labels)
        wrong = is_labelled & (labels != 0) & (labels != 1)
        check_valid(labels, wrong, "be 0 or 1", argument)
        counts = np.bincount(indices[is_labelled])
        positives = np.bincount(indices[labels == 1], minlength=len(counts))
        has_both = (positives > 0) & (positives < counts)
        is_used = is_labelled.copy()
        is_used[is_labelled] = has_both[indices[is_labelled]]
        self._is_used = is_used
        self._is_positive = labels[is_used] == 1
        self._indices = (np.cumsum(has_both) - 1)[indices[is_used]]
        self._counts, self._positives = counts[has_both], positives[has_both]
        labelled = np.count_nonzero(is_labelled)
        self.share = float(self._counts.sum() / labelled) if labelled else float("nan")

    def auc(self, predictions: np.ndarray, weighting: str) -> float:
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
