"""Models and data that gradient_conflict refuses."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.inspection.conflicts import labels, model_of, one_level, two_regression_heads
from tests.models import heads_alone
from tests.refusals import check_refused, table


def without_heads():
    inputs = keras.Input((4,))
    return keras.Model(inputs, one_level()(inputs))


def without_blocks():
    return heads_alone(two_regression_heads(), width=4)


def complete():
    return model_of(one_level(), two_regression_heads())


X, Y = features(12, 4), labels("a", "b")


REFUSED = {
    "no_model": (lambda: 3, (X, Y), TypeError, "model must be a Keras model.*model=3"),
    "no_blocks": (without_blocks, (X, Y), ValueError, "model must contain a PLEBlock"),
    "unbuilt": (one_level, (X, Y), ValueError, "must be built.*built=False"),
    "no_losses": (without_heads, (X, Y), ValueError, "must have TaskHeads with losses"),
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
