"""Models of two tasks, and comparison of the cosines between their gradients."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import randomize
from tests.models import chain

KINDS = {
    "stacked": lambda: pk.ExpertBlock([3], activation=None),
    "copied": lambda: keras.layers.Dense(3),
}


every_kind = pytest.mark.parametrize("expert", list(KINDS.values()), ids=list(KINDS))


def model_of(block, heads, width=4, seed=1):
    """A model of a block and heads, with random weights and biases from the seed."""
    model = chain(block, heads, width=width)
    randomize(model, seed)
    return model


def two_regression_heads(**kwargs):
    return pk.TaskHeads([pk.RegressionHead("a", **kwargs), pk.RegressionHead("b", **kwargs)])


def one_level(num_shared=1):
    return pk.MMoEBlock(["a", "b"], keras.layers.Dense(3), num_shared, name="mmoe")


def labels(*tasks, rows=12, seed=5):
    rng = np.random.default_rng(seed)
    return {task: rng.normal(size=rows).astype("float32") for task in tasks}


def flat(conflict):
    """`{(level, place, pair): cosine}`."""
    return {
        (level, place, pair): value
        for level, places in conflict.items()
        for place, cosines in places.items()
        for pair, value in cosines.items()
    }


def assert_close(actual, expected, atol=1e-5):
    actual, expected = flat(actual), flat(expected)
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert type(actual[key]) is float
        assert actual[key] == pytest.approx(value, abs=atol, nan_ok=True), key
