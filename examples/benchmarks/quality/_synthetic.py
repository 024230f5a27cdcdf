"""Synthetic data of the MMoE paper: two regression tasks with a given correlation.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
KDD 2018, section 3.
"""

import numpy as np
from _data import Dataset, Split

DIMENSION = 100
WAVES = 5
NOISE = 0.1
DEFAULT_ROWS = 60_000


def make_synthetic(correlation: float, rows: int | None = None, seed: int = 0) -> Dataset:
    """Draw the data.

    With orthogonal unit vectors u_1 and u_2 and the correlation p,

        w_1 = u_1,  w_2 = p u_1 + sqrt(1 - p^2) u_2,
        y_k = w_k'x + sum_i sin(a_i w_k'x + b_i) + noise,

    where x is standard normal. The paper does not specify a_i and b_i. They are drawn here, a_i up
    to 3, so that the labels are not a linear function. The labels are standardized: predicting the
    mean gives an RMSE of 1.

    Args:
        correlation: p, in [-1, 1], the cosine between the tasks' weights. The correlation of the
            labels increases with it.
        rows: Number of training rows. Validation and test have a quarter of it each.
        seed: Seed of all random draws.
    """
    rng = np.random.default_rng(seed)
    rows = rows or DEFAULT_ROWS
    weights = _weights(correlation, rng)
    waves = rng.uniform(0, 3, WAVES), rng.uniform(0, 2 * np.pi, WAVES)

    x = rng.standard_normal((rows + 2 * (rows // 4), DIMENSION))
    labels = {f"task_{k}": _label(x @ w, *waves, rng) for k, w in enumerate(weights, start=1)}
    parts = np.split(np.arange(len(x)), [rows, rows + rows // 4])
    splits = [
        Split(
            {"numbers": x[part].astype("float32")},
            {task: y[part].astype("float32") for task, y in labels.items()},
        )
        for part in parts
    ]
    return Dataset(*splits)


def _weights(correlation: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    basis, _ = np.linalg.qr(rng.standard_normal((DIMENSION, 2)))
    first, second = basis.T
    return first, correlation * first + np.sqrt(1 - correlation**2) * second


def _label(
    projection: np.ndarray, frequency: np.ndarray, phase: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    waves = np.sin(projection[:, None] * frequency + phase).sum(axis=1)
    label = projection + waves + NOISE * rng.standard_normal(len(projection))
    return (label - label.mean()) / label.std()
