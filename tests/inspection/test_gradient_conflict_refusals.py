"""Models and data that gradient_conflict refuses."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.inspection.conflicts import labels, one_level, two_regression_heads
from tests.models import heads_alone
from tests.refusals import check_refused, table


def model_with(outputs=lambda found: found, loss=None):
    """A model that applies a function to the outputs of a level."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, outputs(one_level()(inputs)))
    if loss is not None:
        model.compile(loss=loss)
    return model


def without_blocks():
    return heads_alone(two_regression_heads(), width=4)


def complete():
    return model_with(lambda found: two_regression_heads()(found))


X, Y = features(12, 4), labels("a", "b")


TWO = {"a": "mse", "b": ["mse", "mae"]}


REFUSED = {
    "no_model": (lambda: 3, (X, Y), TypeError, "model must be a Keras model.*model=3"),
    "no_blocks": (without_blocks, (X, Y), ValueError, "model must contain a PLEBlock"),
    "unbuilt": (one_level, (X, Y), ValueError, "must be built.*built=False"),
    "no_losses": (
        model_with,
        (X, Y),
        ValueError,
        "must have TaskHeads.*model.loss=None",
    ),
    "one_loss": (lambda: model_with(loss="mse"), (X, Y), ValueError, "by task.*model.loss='mse'"),
    "two_losses": (
        lambda: model_with(loss=TWO),
        (X, Y),
        ValueError,
        r"loss must be .*Received: loss=.*'mse', 'mae'",
    ),
    "returns_a_list": (
        lambda: model_with(lambda found: list(two_regression_heads()(found).values())),
        (X, Y),
        ValueError,
        r"return a dict by task, with the keys \['a', 'b'\].*returns \[",
    ),
    "returns_too_few_tasks": (
        lambda: model_with(lambda found: {"a": two_regression_heads()(found)["a"]}),
        (X, Y),
        ValueError,
        r"return a dict by task, with the keys \['a', 'b'\].*returns \['a'\]",
    ),
    "no_labels": (complete, (X,), TypeError, r"y must be a dict by task, \['a', 'b'\].*y=None"),
    "list_y": (complete, (X, list(Y.values())), TypeError, r"y must be a dict by task.*y=\["),
    "missing_labels": (
        complete,
        (X, {"b": Y["b"]}),
        ValueError,
        r"y must have labels for each of \['a', 'b'\]; missing: \['a'\]. Received: y=\{'b'\}",
    ),
    "words": (
        complete,
        (X, {**Y, "a": np.array(["yes"] * len(X))}),
        TypeError,
        r"y\['a'\] must hold numbers\. Received: y\['a'\]\.dtype=<U3",
    ),
    "rows": (complete, (X[:3], Y), ValueError, "the same number of rows.*rows="),
    "batch_size": (complete, (X, Y, 0), ValueError, "batch_size must be at least 1"),
    "no_batch": (complete, (iter(()),), ValueError, "x must hold at least one batch.*x=<"),
}


@pytest.mark.parametrize(("model", "arguments", "error", "message"), table(REFUSED))
def test_bad_input_is_refused(model, arguments, error, message):
    model = model()
    check_refused(lambda: pk.gradient_conflict(model, *arguments), error, message)
