"""The losses of the pages compute the equations of their papers."""

import math

import numpy as np
import pytest
from keras import ops

from tests.examples.test_documents import code
from tests.helpers import once
from tests.processes import ROOT

pytestmark = once


@pytest.fixture(scope="module")
def names():
    """Return the names that the page on rare labels and the section on customer value define."""
    found = {"__name__": "__main__"}
    *_, customer_value = code(ROOT / "docs" / "recipes" / "exposure.md", "python")
    for block in (*code(ROOT / "docs" / "missing_labels.md", "python"), customer_value):
        exec(block, found)
    return found


def test_undo_pos_weight_returns_the_base_rate(names):
    rate, weight = 0.1, 3.0  # the optimum of the weighted cross-entropy without information
    optimum = weight * rate / (weight * rate + 1 - rate)
    assert names["undo_pos_weight"](optimum, weight) == pytest.approx(rate)


def test_the_zero_inflated_lognormal_loss_is_a_log_density(names):
    logit, mu, sigma = 0.4, 1.5, 0.7
    raw = ops.convert_to_tensor([[logit, mu, math.log(math.expm1(sigma))]])
    p = 1 / (1 + math.exp(-logit))

    def distribution(value):
        return 0.5 + 0.5 * math.erf((math.log(value) - mu) / (sigma * math.sqrt(2)))

    density = (distribution(6.001) - distribution(5.999)) / 0.002
    for value, likelihood in ((0.0, 1 - p), (6.0, p * density)):
        loss = float(names["ziln"](np.array([[value]], "float32"), raw)[0])
        assert loss == pytest.approx(-math.log(likelihood), abs=1e-5)

    rng = np.random.default_rng(0)
    samples = rng.lognormal(mu, sigma, 1_000_000) * (rng.uniform(size=1_000_000) < p)
    assert float(names["expected_value"](raw)[0]) == pytest.approx(samples.mean(), rel=0.01)


def test_the_zero_inflated_lognormal_loss_is_finite_with_zero_and_missing_labels(names):
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    spend = np.where(x[:, 0] > 0, np.exp(2 + x[:, 1]), np.where(x[:, 2] > 1, np.nan, 0))
    history = names["model"].fit(x, {"click": x[:, 1] > 0, "spend": spend}, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
