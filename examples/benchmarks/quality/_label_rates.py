"""Comparison of two treatments of missing labels: masked, or filled with 0."""

from dataclasses import replace

import numpy as np
from _data import Dataset
from _training import Result, Setting, train_networks

MASKED, FILLED = "missing", "taken for 0"


def compare_rates(
    rates: list[float], task: str, kind: str, seeds: int, setting: Setting
) -> list[Result]:
    """Train a model on a share of a task's labels, with both treatments, for each rate and seed.

    Args:
        rates: The shares of the task's training labels to keep.
        task: The task.
        kind: The model, a key of `ALL_NETWORKS`.
        seeds: Number of seeds. Each seed hides other labels.
        setting: The data, metrics and recipe. Validation and test rows are not changed.
    """
    results = []
    for seed in range(seeds):
        for rate in rates:
            labels = keep_share(setting.dataset.train.labels[task], rate, seed)
            for treatment, treated_labels in ((MASKED, labels), (FILLED, np.nan_to_num(labels))):
                rate_setting = replace(
                    setting, dataset=replace_labels(setting.dataset, task, treated_labels)
                )
                name = f"{100 * rate:g} % of labels, others {treatment}"
                results.append(
                    train_networks(kind, [rate_setting.dataset.tasks], rate_setting, seed, name)
                )
    return results


def keep_share(labels: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Set all labels to NaN except for a random share."""
    kept = np.random.default_rng(seed).random(len(labels)) < rate
    return np.where(kept, labels, np.nan).astype("float32")


def replace_labels(dataset: Dataset, task: str, labels: np.ndarray) -> Dataset:
    """Return the data with other training labels for a task."""
    train = replace(dataset.train, labels={**dataset.train.labels, task: labels})
    return replace(dataset, train=train)
