"""Metrics that need all rows at once, for arrays."""

from typing import Any

import numpy as np

from ple_keras._checks import check_known_value, short_repr
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import GroupWeighting, Tensor
from ple_keras.labels.sample_space import to_number_array
from ple_keras.losses.example_losses import MIN_PROBABILITY

WEIGHTINGS = ("rows", "equal")


def grouped_auc(
    labels: Tensor, predictions: Tensor, groups: Tensor, weighting: GroupWeighting = "rows"
) -> float:
    """Return the mean over groups of the area under the ROC curve within each group.

        GAUC = sum_g w_g AUC_g / sum_g w_g

    A group is, for example, a user or a query. The AUC over all rows also compares rows of
    different groups, which are never ranked together. The sums are over the groups that have both
    labels, 0 and 1. A pair with equal predictions counts as one half.

    Args:
        labels: Labels 0 and 1, `(N,)` or `(N, 1)`. NaN is a missing label, which is ignored.
        predictions: Predictions, `(N,)` or `(N, 1)`.
        groups: The group of each row: integers or strings, `(N,)`. If labels are `(N, L)`, all L
            belong to the group of the row.
        weighting: "rows" to weight a group by the number of its labeled rows, or "equal" for equal
            weights.

    Returns:
        A float; NaN if no group has both labels, or a prediction of a labeled row is NaN.

    Raises:
        TypeError: If labels or predictions are not numbers, groups are neither integers nor
            strings, or a group is missing.
        ValueError: If a label is not 0, 1 or NaN, the arrays have different numbers of rows, or
            `weighting` is unknown.

    Reference:

    - Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017.
      [arXiv:1703.02091](https://arxiv.org/abs/1703.02091)

    Example:

    >>> users = ["ann", "ann", "bob", "bob", "bob"]  # AUCs: 1 and 1/2
    >>> grouped_auc([0, 1, 0, 1, 1], [0.1, 0.2, 0.8, 0.7, 0.9], users)
    0.7
    """
    y, p = to_number_array(labels, "labels"), to_number_array(predictions, "predictions")
    if y.shape[:1] != p.shape[:1] or y.size != p.size:
        raise ValueError(
            f"labels must have the shape {p.shape} of predictions. Received: labels.shape={y.shape}"
        )
    y, p = y.ravel().astype("float64"), p.ravel().astype("float64")  # float64 keeps all ties
    if len(wrong := y[(y != 0) & (y != 1) & ~np.isnan(y)]):
        raise ValueError(f"labels must be 0, 1 or missing. Received: labels={wrong[0]}")
    check_known_value(weighting, WEIGHTINGS, "weighting")
    indices = group_indices(groups, rows=len(np.atleast_1d(to_numpy(labels))))
    indices, is_labeled = np.repeat(indices, len(y) // max(len(indices), 1)), ~np.isnan(y)
    y, p, indices = y[is_labeled], p[is_labeled], indices[is_labeled]
    counts, positives = np.bincount(indices), np.bincount(indices, y)
    has_both = (positives > 0) & (positives < counts)
    is_used = has_both[indices]
    y, p, indices = y[is_used], p[is_used], indices[is_used]
    if not len(y) or np.isnan(p).any():
        return float("nan")
    order = np.lexsort((p, indices))
    y, p, indices = y[order], p[order], indices[order]
    # Rows of a group with equal predictions get the mean of their ranks.
    is_new = (indices[1:] != indices[:-1]) | (p[1:] != p[:-1])
    ties = np.cumsum(np.append(0, is_new))
    ranks = (np.bincount(ties, np.arange(1, len(y) + 1)) / np.bincount(ties))[ties]
    sums = np.bincount(indices, ranks * y, minlength=len(counts))[has_both]
    counts, positives = counts[has_both], positives[has_both]
    earlier = np.cumsum(counts) - counts  # rows in earlier groups
    areas = (sums / positives - earlier - (positives + 1) / 2) / (counts - positives)
    return float(np.average(areas, weights=counts if weighting == "rows" else None))


def group_indices(groups: Tensor, rows: int) -> np.ndarray:
    """Return the group of each row as an index from 0.

    Raises:
        TypeError: If groups are neither integers nor strings, or a group is missing.
        ValueError: If their shape is not `(rows,)`.
    """
    array = to_numpy(groups)
    if array.shape != (rows,):
        raise ValueError(
            f"groups must be an array of the shape ({rows},) of labels. The name of a column is "
            f"`group` of TabularModel. Received: groups.shape={array.shape}"
        )
    names = array.tolist()
    wrong = [name for name in names if not isinstance(name, str | bytes | int)]
    if wrong:
        raise TypeError(
            "groups must be integers or strings, without missing entries. Convert whole numbers "
            f"with astype('int64'). Received: groups=[..., {short_repr(wrong[0])}]"
        )
    indices: dict[str | bytes | int, int] = {}  # faster than sorting strings
    return np.array([indices.setdefault(name, len(indices)) for name in names], dtype="int64")


def half_deviances(labels: np.ndarray, means: np.ndarray, power: float) -> Any:
    """Return half the deviance of each label (see `TweedieHead`), and of counts with power 1."""
    means = np.maximum(means, MIN_PROBABILITY)
    logs = np.log(np.maximum(labels, MIN_PROBABILITY) / means)
    if power == 1:
        found = labels * logs - labels + means
    elif power == 2:
        found = labels / means - 1 - logs
    else:
        excess = labels * means ** (1 - power) - means ** (2 - power)
        powers = labels ** (2 - power) - means ** (2 - power)
        found = (excess - powers / (2 - power)) / (power - 1)
    return np.maximum(found, 0)  # rounding can give -1e-17
