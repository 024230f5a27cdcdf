"""What it is worth to leave missing labels out, next to taking them for 0."""

from dataclasses import replace

import numpy as np
from _comparison import Result, Setting, train_networks
from _data import Dataset

MASKED, FILLED = "missing", "taken for 0"


def compare_rates(
    rates: list[float], task: str, kind: str, seeds: int, setting: Setting
) -> list[Result]:
    """Train a model with some of a task's labels, in both ways, for every rate and seed.

    Args:
        rates: The shares of the task's training labels to keep.
        task: The task.
        kind: The model, a key of `MODELS`.
        seeds: How many seeds; each hides other labels.
        setting: What to train on, and how. Its validation and test rows stay as they are.
    """
    results = []
    for seed in range(seeds):
        for rate in rates:
            labels = keep_some(setting.dataset.train.labels[task], rate, seed)
            for way, given in ((MASKED, labels), (FILLED, np.nan_to_num(labels))):
                own = replace(setting, dataset=with_labels(setting.dataset, task, given))
                name = f"{100 * rate:g} % of labels, others {way}"
                results.append(train_networks(kind, [own.dataset.tasks], own, seed, name))
    return results


def keep_some(labels: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Labels, all but a share of them at random made NaN."""
    kept = np.random.default_rng(seed).random(len(labels)) < rate
    return np.where(kept, labels, np.nan).astype("float32")


def with_labels(dataset: Dataset, task: str, labels: np.ndarray) -> Dataset:
    """The data with other training labels of a task."""
    train = replace(dataset.train, labels={**dataset.train.labels, task: labels})
    return replace(dataset, train=train)
