"""The family of numbers whose quantiles are predicted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ple_keras.families.family import Family
from ple_keras.labels.sample_space import SAFE_PREDICTION


class Quantiles(Family):
    """Numbers. A prediction has several quantiles, and a label has one number.

    Args:
        quantiles: The levels of the quantiles, ascending.
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        self.levels, self.axes = np.array(quantiles), min(len(quantiles), 2)

    def link(self, p: np.ndarray) -> Any:
        if p.ndim == 1:
            return p
        is_missing = np.isnan(p).any(axis=-1, keepdims=True)  # a sort moves NaN to the end
        return np.where(is_missing, np.nan, np.sort(p, axis=-1))  # quantiles of boosting cross

    def indicators(self, y: np.ndarray, units: int) -> np.ndarray | None:
        return np.repeat(y, units, axis=-1) if y.shape[-1] == 1 else None

    def losses(self, y: np.ndarray, p: np.ndarray, least: float | None = None) -> Any:
        errors = y - p
        found = np.maximum(self.levels * errors, (self.levels - 1) * errors)
        return found.mean(axis=-1, keepdims=True)

    def row_losses(self, y: np.ndarray, p: np.ndarray, least: float) -> np.ndarray:
        has_levels = p.size == len(y) * len(self.levels)
        return super().row_losses(y, p, least) if has_levels else np.array(np.nan)

    def constant(self, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        if not len(y):
            return np.full(len(self.levels), SAFE_PREDICTION)
        order = np.argsort(y[:, 0])
        total = np.cumsum((np.ones(len(y)) if weights is None else weights)[order])
        index = np.searchsorted(total, self.levels * total[-1])
        return np.asarray(y[order[np.minimum(index, len(y) - 1)], 0])

    def figures(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
        is_covered = (p[:, 0] <= y[:, 0]) & (y[:, 0] <= p[:, -1])
        nominal = float(self.levels[-1] - self.levels[0])
        return {"coverage": float(is_covered.mean()), "nominal_coverage": nominal}
