"""Models and data that have no gradients to compare."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.inspection.conflicts import labels, one_level, two_numbers
from tests.models import heads_alone
from tests.refusals import check_refused, table


def plain(outputs=lambda found: found, loss=None):
    """A model of a level and what is made of its outputs."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, outputs(one_level()(inputs)))
    if loss is not None:
        model.compile(loss=loss)
    return model


def run_twice():
    inputs = keras.Input((4,))
    block = one_level()
    first, second = block(inputs), block(keras.layers.Rescaling(2.0)(inputs))
    return keras.Model(inputs, two_numbers()({"a": first["a"], "b": second["b"]}))


def without_blocks():
    return heads_alone(two_numbers(), width=4)


def complete():
    return plain(lambda found: two_numbers()(found))


X, Y = features(12, 4), labels("a", "b")


TWO = {"a": "mse", "b": ["mse", "mae"]}


REFUSED = {
    "no_model": (lambda: 3, (X, Y), TypeError, "model must be a Keras model.*model=3"),
    "no_blocks": (without_blocks, (X, Y), ValueError, "model must contain a PLEBlock"),
    "unbuilt": (one_level, (X, Y), ValueError, "must be built.*built=False"),
    "no_losses": (plain, (X, Y), ValueError, "losses by task: those of TaskHeads.*model.loss=None"),
    "one_loss": (lambda: plain(loss="mse"), (X, Y), ValueError, "by task.*model.loss='mse'"),
    "two_losses": (
        lambda: plain(loss=TWO),
        (X, Y),
        ValueError,
        r"one loss.*Received: loss\['b'\]=",
    ),
    "a_list": (
        lambda: plain(lambda found: list(two_numbers()(found).values())),
        (X, Y),
        ValueError,
        r"return a dict by task, with the keys \['a', 'b'\].*returns \[",
    ),
    "a_task_less": (
        lambda: plain(lambda found: {"a": two_numbers()(found)["a"]}),
        (X, Y),
        ValueError,
        r"return a dict by task, with the keys \['a', 'b'\].*returns \['a'\]",
    ),
    "twice": (run_twice, (X, Y), ValueError, r"run each block once.*runs \['mmoe'\]"),
    "no_labels": (complete, (X,), TypeError, r"y must be a dict by task, \['a', 'b'\].*y=None"),
    "list_y": (complete, (X, list(Y.values())), TypeError, r"y must be a dict by task.*y=\["),
    "a_label_less": (
        complete,
        (X, {"b": Y["b"]}),
        ValueError,
        r"y must have labels for each of \['a', 'b'\]; missing: \['a'\]. Received: y=\{'b'\}",
    ),
    "rows": (complete, (X[:3], Y), ValueError, "as many rows.*rows="),
    "batch_size": (complete, (X, Y, 0), ValueError, "batch_size must be at least 1"),
    "no_batch": (complete, (iter(()),), ValueError, "x must hold at least one batch.*x=<"),
}


@pytest.mark.parametrize(("model", "arguments", "error", "message"), table(REFUSED))
def test_bad_input_is_refused(model, arguments, error, message):
    model = model()
    check_refused(lambda: pk.gradient_conflict(model, *arguments), error, message)
