"""The families of labels, as in generalized linear models, for arrays in NumPy."""

import math
from typing import Any

import numpy as np

from ple_keras.labels.label_arrays import check_class_indices, check_probabilities, check_values
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.losses.example_losses import MIN_PROBABILITY
from ple_keras.metrics.array_metrics import grouped_auc, half_deviances

MIN_COMPLEMENT = 1e-7  # the limit of 1 - p, since float32 has few probabilities closer to 1
# The limit of mixed probabilities, counts and amounts. 1 - 2**-23 is exact in float32.
MIN_MIXED = 2.0**-23


class Family:
    """The labels of a task: what reports, comparisons, mixtures and frames ask about them.

    Arrays are float64. Labels and predictions are `(rows, n)`, with NaN for a missing label, unless
    a method says otherwise. A family knows nothing of the training loss of a task.

    Attributes:
        axes: The axes of the predictions of one label: 1, or 2 for several numbers a row.
        is_rate: Whether the sum of the predictions should be the sum of the labels.
        has_classes: Whether the labels are classes, or the probability of one of two.
        is_list: Whether a row is a list of items.
        variance_power: The power of the mean in the variance of a label; None if it is unknown.
        activation: The name of the activation that is `inverse`.
    """

    axes = 1
    is_rate = has_classes = is_list = False
    variance_power: float | None = None
    activation = "linear"

    def __repr__(self) -> str:
        return type(self).__name__.lower()

    def link(self, p: np.ndarray) -> Any:
        """Return the values that a mixture adds, in the shape of the predictions."""
        return p

    def inverse(self, value: np.ndarray) -> Any:
        """Return the predictions with these values."""
        return value

    def indicators(self, y: np.ndarray, units: int) -> np.ndarray | None:
        """Return labels as wide as predictions, `(rows, units)`; None if they can't be."""
        return y if y.shape[-1] == units else None

    def losses(self, y: np.ndarray, p: np.ndarray, least: float | None = None) -> Any:
        """Return the loss of each number, or `(rows, 1)` if a label has several.

        Args:
            y: The labels, as wide as predictions.
            p: The predictions.
            least: A lower limit of probabilities, counts and amounts; None for the limits of
                reports.
        """
        return (y - p) ** 2

    def row_losses(self, y: np.ndarray, p: np.ndarray, least: float) -> np.ndarray:
        """Return the loss of each row, NaN where a label or a prediction is not allowed.

        Args:
            y: The labels, `(rows,)`.
            p: The predictions, `(rows,)` or `(rows, n)`.
            least: As for `losses`.
        """
        found = self.losses(y[:, None], p.reshape(len(p), -1), least)[:, 0]
        return np.where(self.allows(y, p), found, np.nan)

    def allows(self, y: np.ndarray, p: np.ndarray) -> Any:
        """Return whether the label and the prediction of each row are allowed, as `row_losses`."""
        return True

    def constant(self, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the best constant prediction, `(n,)`.

        Args:
            y: The labels, as wide as predictions.
            weights: The weights of the rows, `(rows,)`.
        """
        weights = None if weights is None else np.broadcast_to(weights[:, None], y.shape)
        mean: Any = np.ma.average(np.ma.masked_invalid(y), axis=0, weights=weights)
        return np.asarray(mean.filled(SAFE_PREDICTION))

    def possible_labels(self, y: np.ndarray, p: np.ndarray) -> list[float]:
        """Return labels that each row could have had, for intervals (see `row_losses`)."""
        return []

    def figures(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
        """Return figures by name, such as `rmse`, of labels as wide as predictions."""
        return {"rmse": float(np.sqrt(np.nanmean(self.losses(y, p))))}

    def check_labels(self, y: np.ndarray, task: str, units: int) -> None:
        """Check the values of labels that are not missing.

        Args:
            y: The labels.
            task: The task's name, for messages.
            units: The width of the predictions.
        """


class Regression(Family):
    """Numbers."""


class Binary(Family):
    """The probability of a positive label. Labels can be probabilities, too."""

    is_rate = has_classes = True
    activation = "sigmoid"

    def link(self, p: np.ndarray) -> Any:
        p = np.clip(p, MIN_MIXED, 1 - MIN_MIXED)
        return np.log(p) - np.log1p(-p)

    def inverse(self, value: np.ndarray) -> Any:
        odds = np.exp(value)
        return odds / (1 + odds)

    def losses(self, y: np.ndarray, p: np.ndarray, least: float | None = None) -> Any:
        low, high = (least, least) if least else (MIN_PROBABILITY, MIN_COMPLEMENT)
        return -y * np.log(np.maximum(p, low)) - (1 - y) * np.log(np.maximum(1 - p, high))

    def allows(self, y: np.ndarray, p: np.ndarray) -> Any:
        return (np.minimum(y, p) >= 0) & (np.maximum(y, p) <= 1)

    def possible_labels(self, y: np.ndarray, p: np.ndarray) -> list[float]:
        return [0.0, 1.0]

    def figures(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
        if not (np.isin(y, (0, 1)) | np.isnan(y)).all():
            return {}
        areas = [grouped_auc(*pair, np.zeros(len(y), int)) for pair in zip(y.T, p.T)]
        known = [area for area in areas if not math.isnan(area)]
        return {"auc": sum(known) / len(known)} if known else {}

    def check_labels(self, y: np.ndarray, task: str, units: int) -> None:
        check_probabilities(y, task)


class Power(Family):
    """Counts and amounts, whose variance is proportional to a power of their mean.

    Args:
        power: The power: 1 for counts.
    """

    is_rate = True
    activation = "exponential"

    def __init__(self, power: float) -> None:
        self.variance_power: float = power

    def __repr__(self) -> str:
        return {1.0: "count", 1.5: "amount"}.get(
            self.variance_power, f"power={self.variance_power}"
        )

    def link(self, p: np.ndarray) -> Any:
        return np.log(np.maximum(p, MIN_MIXED))

    def inverse(self, value: np.ndarray) -> Any:
        return np.exp(value)

    def losses(self, y: np.ndarray, p: np.ndarray, least: float | None = None) -> Any:
        return half_deviances(y, np.maximum(p, least or MIN_PROBABILITY), self.variance_power)

    def allows(self, y: np.ndarray, p: np.ndarray) -> Any:
        return np.minimum(y, p) >= 0

    def possible_labels(self, y: np.ndarray, p: np.ndarray) -> list[float]:
        is_zero = y == 0
        return [0.0, y[~is_zero].mean()] if 0 < is_zero.sum() < len(y) else []

    def figures(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
        return {"deviance": 2 * float(np.nanmean(self.losses(y, p)))}

    def check_labels(self, y: np.ndarray, task: str, units: int) -> None:
        check_values(y, y < 0, task, "be at least 0")
        if self.variance_power == 2:
            check_values(y, y == 0, task, "be above 0 with power=2")


class Multiclass(Family):
    """The probability of each class. Labels are indices of classes, or probabilities."""

    axes = 2
    has_classes = True
    activation = "softmax"

    def link(self, p: np.ndarray) -> Any:
        return np.log(np.clip(p, MIN_MIXED, 1 - MIN_MIXED))

    def inverse(self, value: np.ndarray) -> Any:
        powers = np.exp(value)
        return powers / powers.sum(axis=1, keepdims=True)

    def indicators(self, y: np.ndarray, units: int) -> np.ndarray | None:
        is_index = y.shape[-1] == 1
        return super().indicators((y == np.arange(units)).astype(float) if is_index else y, units)

    def losses(self, y: np.ndarray, p: np.ndarray, least: float | None = None) -> Any:
        least = least or MIN_PROBABILITY
        if y.shape[-1] < p.shape[-1]:  # an index needs one logarithm
            index = np.clip(y, 0, p.shape[-1] - 1).astype(int)
            return -np.log(np.maximum(np.take_along_axis(p, index, axis=-1), least))
        return -(y * np.log(np.maximum(p, least))).sum(axis=-1, keepdims=True)

    def allows(self, y: np.ndarray, p: np.ndarray) -> Any:
        return np.isin(y, np.arange(p.shape[1])) & (p >= 0).all(axis=1)

    def possible_labels(self, y: np.ndarray, p: np.ndarray) -> list[float]:
        return [*map(float, range(p.shape[1]))]

    def figures(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
        accuracy = float((y.argmax(axis=-1) == p.argmax(axis=-1)).mean())
        deviation = float(y.std(axis=0).max())
        return {"label_mean": math.nan, "label_deviation": deviation, "accuracy": accuracy}

    def check_labels(self, y: np.ndarray, task: str, units: int) -> None:
        if y.shape[-1] == units:
            check_probabilities(y, task)
        else:
            check_class_indices(y, task, units)


class Ranking(Family):
    """The relevance of the items of lists. Predictions are scores, which have no figures."""

    is_list = True

    def indicators(self, y: np.ndarray, units: int) -> np.ndarray | None:
        return None

    def check_labels(self, y: np.ndarray, task: str, units: int) -> None:
        check_values(y, y < 0, task, "be at least 0")
