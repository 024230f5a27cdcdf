"""Synthetic regression tasks, after the data of the MMoE paper.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
KDD 2018, section 3. Each task k has a direction w_k of length 1, and the label

    y_k = w_k'x + sum_i sin(a_i w_k'x + b_i) + noise,

where x is standard normal. The paper does not specify a_i and b_i. They are drawn here, a_i up to
3, so that the labels are not a linear function. The labels are standardized: predicting the mean
gives an RMSE of 1.

Arguments of all functions:
    rows: Number of training rows. Validation and test have a quarter of it each.
    seed: Seed of all random draws.
"""

import numpy as np
from _data import Dataset, Split

DIMENSION = 100
WAVES = 5
NOISE = 0.1
RELATED = 0.9
DEFAULT_ROWS = 60_000


def make_synthetic(correlation: float, rows: int | None = None, seed: int = 0) -> Dataset:
    """Draw two tasks whose directions have the given cosine, in [-1, 1].

    The correlation of the labels increases with the cosine.
    """
    rng = np.random.default_rng(seed)
    first, other = _orthogonal(2, rng)
    second = correlation * first + np.sqrt(1 - correlation**2) * other
    return _draw(np.stack([first, second]), rows or DEFAULT_ROWS, rng)


def make_flipped(rows: int | None = None, seed: int = 0) -> Dataset:
    """Draw two tasks with one direction. A feature flips the sign of the second task's label.

    The tasks are equal for half of the rows and opposite for the others. Their labels are
    uncorrelated. The feature has no effect on the first task.
    """
    rng = np.random.default_rng(seed)
    feature = np.zeros(DIMENSION)
    feature[0] = 1.0
    direction = _orthogonal(1, rng)[0]
    direction = direction - direction[0] * feature
    direction /= np.linalg.norm(direction)
    return _draw(np.stack([direction, direction]), rows or DEFAULT_ROWS, rng, flip=True)


def make_many(tasks: int, rows: int | None = None, seed: int = 0) -> Dataset:
    """Draw tasks of which the first half are related: their directions have a cosine of 0.9.

    The directions of the others are orthogonal to each other and to those of the related tasks.
    """
    rng = np.random.default_rng(seed)
    common, *own = _orthogonal(tasks + 1, rng)
    directions = [
        np.sqrt(RELATED) * common + np.sqrt(1 - RELATED) * direction
        if k < tasks // 2
        else direction
        for k, direction in enumerate(own)
    ]
    return _draw(np.stack(directions), rows or DEFAULT_ROWS, rng)


def _orthogonal(count: int, rng: np.random.Generator) -> np.ndarray:
    basis, _ = np.linalg.qr(rng.standard_normal((DIMENSION, count)))
    return basis.T


def _draw(
    directions: np.ndarray, rows: int, rng: np.random.Generator, flip: bool = False
) -> Dataset:
    """Draw inputs and labels. With `flip`, the sign of the first input flips the second label."""
    waves = rng.uniform(0, 3, WAVES), rng.uniform(0, 2 * np.pi, WAVES)
    x = rng.standard_normal((rows + 2 * (rows // 4), DIMENSION))
    labels = {f"task_{k}": _label(x @ w, *waves, rng) for k, w in enumerate(directions, start=1)}
    if flip:
        labels["task_2"] = labels["task_2"] * np.sign(x[:, 0])
    parts = np.split(np.arange(len(x)), [rows, rows + rows // 4])
    splits = [
        Split(
            {"numbers": x[part].astype("float32")},
            {task: y[part].astype("float32") for task, y in labels.items()},
        )
        for part in parts
    ]
    return Dataset(*splits)


def _label(
    projection: np.ndarray, frequency: np.ndarray, phase: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    waves = np.sin(projection[:, None] * frequency + phase).sum(axis=1)
    label = projection + waves + NOISE * rng.standard_normal(len(projection))
    return (label - label.mean()) / label.std()
