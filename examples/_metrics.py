"""What models are judged by."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """A figure of one task.

    Attributes:
        task: The task.
        name: The figure's name in tables.
        key: Its name in Keras's logs, without the task.
        sign: 1 where more is better, -1 where less is.
        score: `(labels, predictions) -> float`, exact; Keras's own works batch by batch.
        weight: In the score that chooses a network's epoch; 0 for what is only reported.
        digits: After the point, in tables.
    """

    task: str
    name: str
    key: str
    sign: int
    score: Callable[[np.ndarray, np.ndarray], float]
    weight: float = 1.0
    digits: int = 5

    @property
    def label(self) -> str:
        """What a column of a table calls it."""
        return f"{self.name} {self.task}"

    @property
    def full_key(self) -> str:
        """The task and the key, as in the logs of several tasks."""
        return f"{self.task}_{self.key}"

    def log_key(self, tasks: list[str]) -> str:
        """Its key in the logs of a network of the given tasks. With one Keras drops its name."""
        return f"val_{self.key}" if len(tasks) == 1 else f"val_{self.full_key}"

    def of(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """The figure on the rows that have a label."""
        known = ~np.isnan(labels)
        return float(self.score(labels[known], predictions[known]))


def judging(metrics: list[Metric]) -> list[Metric]:
    """The metrics that choose a network's epoch, and that gains are of."""
    return [metric for metric in metrics if metric.weight]


def listed(metrics: list[Metric], values: list[float]) -> str:
    """Values in a line: "AUC click 0.8123, purchase 0.9123"."""
    names = ["", *(metric.name for metric in metrics)]
    return ", ".join(
        f"{metric.task if metric.name == before else metric.label} {value:.4f}"
        for metric, before, value in zip(metrics, names, values)
    )


def calibration_error(labels: np.ndarray, predictions: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error of probabilities.

    The rows are sorted by prediction and cut into bins of equally many: by how much, on average,
    do a bin's mean prediction and its share of positives differ?
    """
    order = np.argsort(predictions, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(np.mean(labels[part]) - np.mean(predictions[part])) for part in parts]
    return float(np.average(gaps, weights=[len(part) for part in parts]))
