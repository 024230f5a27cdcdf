"""The data of `whole_job.py` and `table_start.py`, and the scores of predictions.

Simulated impressions: a click, and after a click a purchase ("buy") and the logarithm of the time
until the next action ("seconds"), standardized. Whoever does not click has no label for these two.
Twelve columns of codes have effects on all three, and so have pairs of columns. Some codes are
frequent and most are rare.
"""

from typing import Any

import numpy as np

BATCH, WIDTH, NUMBERS = 1024, 16, 8
STEPS = 293  # batches of an epoch: 300,032 rows
TEST_ROWS = 50_000
ROWS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 200_000)
COLUMNS = {f"code_{i}": rows for i, rows in enumerate(ROWS)}  # the rows of the tables
TASKS = ("click", "buy", "seconds")
EXPERTS, TOWER, LEVELS = (128, 64), 64, 2
FACTORS = 4  # hidden values of a code: an effect on each task, and one for pairs of columns

Arrays = dict[str, np.ndarray]


def make_data(seed: int, steps: int = STEPS) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Return columns and labels for training, and those of later rows for the test."""
    rng = np.random.default_rng(seed)
    count = steps * BATCH + TEST_ROWS
    x: Arrays = {"numbers": rng.normal(size=(count, NUMBERS)).astype("float32")}
    effects = x["numbers"] @ rng.normal(0, 0.2, (NUMBERS, len(TASKS)))
    pairs = []
    for column, rows in COLUMNS.items():
        x[column] = (rows * rng.random(count) ** 3).astype("int32")
        factors = rng.normal(size=(rows, FACTORS))[x[column]]
        effects += 0.5 * factors[:, : len(TASKS)]
        pairs.append(factors[:, -1])
    joint = sum(a * b for a, b in zip(pairs[::2], pairs[1::2], strict=True))
    effects += np.outer(joint, [0.3, 0.2, 0.2])
    y, train = labels_of(effects, rng), steps * BATCH
    return first(x, train), first(y, train), last(x, train), last(y, train)


def labels_of(effects: np.ndarray, rng: np.random.Generator) -> Arrays:
    """Draw labels for the effects on each task, `(rows, 3)`."""
    count = len(effects)
    click = rng.random(count) < _sigmoid(effects[:, 0] - 1)
    buy = rng.random(count) < _sigmoid(0.5 * effects[:, 0] + effects[:, 1] - 2)
    seconds = effects[:, 2] + rng.normal(0, 1, count)
    seconds = (seconds - seconds[click].mean()) / seconds[click].std()
    return {
        "click": click.astype("float32"),
        "buy": np.where(click, buy, np.nan).astype("float32"),
        "seconds": np.where(click, seconds, np.nan).astype("float32"),
    }


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def first(arrays: Arrays, count: int) -> Arrays:
    return {name: array[:count] for name, array in arrays.items()}


def last(arrays: Arrays, start: int) -> Arrays:
    return {name: array[start:] for name, array in arrays.items()}


def scores(y: Arrays, predictions: dict[str, Any]) -> dict[str, float]:
    """Return the AUC of click and buy, and the root of the mean squared error of seconds."""
    found = {}
    for task in TASKS:
        known = ~np.isnan(y[task])
        labels, predicted = y[task][known], np.asarray(predictions[task]).ravel()[known]
        if task == "seconds":
            found[task] = float(np.sqrt(np.mean((predicted - labels) ** 2)))
        else:
            found[task] = _auc(labels, predicted)
    return found


def _auc(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of pairs of a positive and a negative that are in order. Ties count half."""
    _, place, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = labels.sum()
    below = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(below / (positives * (len(labels) - positives)))
