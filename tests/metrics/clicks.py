"""Labels and predictions of clicks."""

import numpy as np


def click_data(base_rate, spread, size=40_000):
    """Return labels with the base rate, and calibrated probabilities of logits with the spread."""
    rng = np.random.default_rng(0)
    logits = np.log(base_rate / (1 - base_rate)) + spread * rng.normal(size=size)
    probabilities = 1 / (1 + np.exp(-logits))
    labels = (rng.uniform(size=size) < probabilities).astype("float32")
    return labels, probabilities.astype("float32")
