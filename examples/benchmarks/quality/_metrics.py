"""Metrics of the comparisons."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """Metric of one task.

    Attributes:
        task: The task.
        name: The metric's name in tables.
        key: Its name in Keras's logs, without the task.
        sign: 1 if higher is better, -1 if lower is better.
        score: `(labels, predictions) -> float`, over all rows. Keras computes its metrics by batch.
        weight: Weight in the score that selects a network's epoch. 0 if only reported.
        digits: Number of decimals in tables.
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
        """Column title in tables."""
        return f"{self.name} {self.task}"

    @property
    def full_key(self) -> str:
        """Task and key, as in the logs of several tasks."""
        return f"{self.task}_{self.key}"

    def log_key(self, tasks: list[str]) -> str:
        """Return the key in the logs of a network for the given tasks.

        With one task, the keys do not contain it.
        """
        return f"val_{self.key}" if len(tasks) == 1 else f"val_{self.full_key}"

    def evaluate(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """Return the metric over the rows that have a label."""
        known = ~np.isnan(labels)
        return float(self.score(labels[known], predictions[known]))


def selection_metrics(metrics: list[Metric]) -> list[Metric]:
    """Return the metrics that select a network's epoch and that gains are computed for."""
    return [metric for metric in metrics if metric.weight]


def format_values(metrics: list[Metric], values: list[float]) -> str:
    """Format values as a line: "AUC click 0.8123, purchase 0.9123"."""
    names = ["", *(metric.name for metric in metrics)]
    return ", ".join(
        f"{metric.task if metric.name == before else metric.label} {value:.4f}"
        for metric, before, value in zip(metrics, names, values)
    )


def calibration_error(labels: np.ndarray, predictions: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error of probabilities.

    The rows are sorted by prediction and split into bins of equal size. The error is the mean, over
    the bins, of the absolute difference between mean prediction and share of positives.
    """
    order = np.argsort(predictions, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(np.mean(labels[part]) - np.mean(predictions[part])) for part in parts]
    return float(np.average(gaps, weights=[len(part) for part in parts]))
