"""Models and data that inspection functions refuse."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, once
from tests.models import chain, heads_alone
from tests.refusals import all_refused, check_refused, table

pytestmark = once
X, Y = features(12, 4), {task: features(12, seed=i) for i, task in enumerate("ab")}
FUNCTIONS = {
    "gate_weights": lambda model, x, y, **kwargs: pk.gate_weights(model, x, **kwargs),
    "gate_report": lambda model, x, y, **kwargs: pk.gate_report(model, x, **kwargs),
    "task_report": pk.task_report,
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def one_level():
    return pk.MMoEBlock(["a", "b"], keras.layers.Dense(3), 1, name="mmoe")


def two_heads():
    return pk.TaskHeads([pk.RegressionHead("a"), pk.RegressionHead("b")])


@pytest.fixture(scope="module")
def complete():
    return chain(one_level(), two_heads(), width=4)


@every_function
def test_a_model_must_be_a_built_layer(function):
    check_refused(lambda: function(3, X, Y), TypeError, r"model must be a Keras model.*model=3")
    check_refused(lambda: function(one_level(), X, Y), ValueError, r"must be built.*built=False")


DATA = {
    "width": (features(12, 5), ValueError, r"valid input for the model.*x\.shape=\(12, 5\)"),
    "number": (3, TypeError, r"x must be arrays.*Received: x=3"),
    "no_row": (X[:0], ValueError, r"at least one row.*Received: rows=\[0"),
    "no_batch": (iter([]), ValueError, "x must not be empty.*batches=0"),
}


@every_function
@pytest.mark.parametrize(("x", "error", "message"), table(DATA))
def test_x_must_be_input_of_the_model(complete, function, x, error, message):
    y = {task: of[: len(x)] for task, of in Y.items()} if isinstance(x, np.ndarray) else None
    check_refused(lambda: function(complete, x, y), error, message)


@every_function
@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.5, TypeError)])
def test_batch_size_must_be_a_count(complete, function, size, error):
    message = r"batch_size must be (at least 1|an integer)"
    check_refused(lambda: function(complete, X, Y, batch_size=size), error, message)


LABELS = {
    "none": (None, TypeError, r"y must be a dict with keys among \['a', 'b'\].*y=None"),
    "task": ({"b": Y["b"]}, ValueError, r"the keys \['a', 'b'\]; missing: \['a'\],.*y=\{'b'\}"),
    "rows": ({**Y, "a": Y["a"][:3]}, ValueError, r"the same number of rows.*rows="),
}


@pytest.mark.parametrize(("y", "error", "message"), table(LABELS))
def test_labels_must_be_those_of_the_heads(complete, y, error, message):
    check_refused(lambda: pk.task_report(complete, X, y), error, message)


VALUES = {
    "infinite": (np.where(np.arange(12) == 3, np.inf, 0), r"be finite or be missing; invalid: 1"),
    "width": (np.zeros((12, 2)), r"have a shape \(batch, 1\)"),
    "range": (np.full(12, 2), r"lie in \[0, 1\]"),
}


@pytest.mark.parametrize(("values", "message"), table(VALUES))
def test_a_task_report_checks_the_values_of_labels(values, message):
    model = heads_alone(pk.TaskHeads([pk.BinaryHead("a")]), width=4)
    message = rf"y\['a'\] must {message}"
    check_refused(lambda: pk.task_report(model, X, {"a": values}), ValueError, message)


def without_heads():
    inputs = keras.Input((4,))
    return keras.Model(inputs, one_level()(inputs))


def without_blocks():
    return heads_alone(two_heads(), width=4)


def with_two_blocks_of_one_name():
    blocks = [pk.CGCBlock(["a"], [4], name="cgc") for _ in range(2)]
    for block in blocks:
        block(X)
    model = keras.layers.Layer()
    model.blocks, model.built = blocks, True
    return model


MODELS = {
    "no_blocks": (pk.gate_weights, without_blocks, "call a PLEBlock, MMoEBlock or CGC"),
    "no_heads": (pk.task_report, without_heads, "model must have TaskHeads"),
    "one_name": (pk.gate_weights, with_two_blocks_of_one_name, "two blocks called 'cgc'"),
}


def call(function, make):
    return function(make(), X) if function is pk.gate_weights else function(make(), X, Y)


test_models_that_lack_requirements_are_refused = all_refused(call, MODELS)


OPTIONS = {
    "groups": (
        {"groups": np.arange(12)},
        ValueError,
        r"groups require new_rows=True.*groups=ndarray",
    ),
    "rows": ({"groups": [1, 2], "new_rows": True}, ValueError, r"the shape \(12,\)"),
    "flag": ({"new_rows": 1}, TypeError, r"new_rows must be True or False"),
}


@pytest.mark.parametrize(("options", "error", "message"), table(OPTIONS))
def test_groups_are_those_of_new_rows(complete, options, error, message):
    check_refused(lambda: pk.task_report(complete, X, Y, **options), error, message)
