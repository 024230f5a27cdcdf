"""The gate weights of any model for each example."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once
from tests.models import (
    TASKS,
    chain,
    click_and_buy_heads,
    compiled,
    functional,
    heads_alone,
    tracked_block,
)
from tests.refusals import all_refused, check_refused, table

X = features(7, 4)
Y = {task: X[:, i] > 0 for i, task in enumerate(TASKS)}


def assert_equal_weights(found, expected):
    assert list(found) == list(expected)
    for gate, weights in expected.items():
        np.testing.assert_allclose(found[gate], weights, rtol=1e-5, atol=1e-6, err_msg=gate)


@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=once), 3])
def test_the_weights_are_those_of_each_level(batch_size):
    ple = tracked_block()
    model = functional(ple)
    weights = pk.gate_weights(model, X, batch_size=batch_size)
    assert list(weights) == ["ple/0", "ple/1"]
    assert_equal_weights(weights["ple/0"], numpy_of(ple[0].gate_weights(X)))
    assert_equal_weights(weights["ple/1"], numpy_of(ple[1].gate_weights(ple[0](X))))


def test_a_block_is_taken_as_a_model_and_keeps_the_leading_axes():
    mmoe = tracked_block(pk.MMoEBlock, name="mmoe")
    x = features(5, 3, 4)
    mmoe(x)
    weights = pk.gate_weights(mmoe, x, batch_size=2)["mmoe"]["click"]
    np.testing.assert_allclose(weights, numpy_of(mmoe.gate_weights(x))["click"], rtol=1e-5)


@once
def test_equal_names_in_nested_models_are_prefixed_with_the_names_of_the_models():
    inputs, outputs = keras.Input((4,)), []
    for name in ("left", "right"):
        layers = keras.Input((4,)), tracked_block(pk.CGCBlock, name="cgc")
        submodel = keras.Model(layers[0], layers[1](layers[0])["click"], name=name)
        outputs.append(submodel(inputs))
    assert list(pk.gate_weights(keras.Model(inputs, outputs), X)) == ["left/cgc", "right/cgc"]


def test_layers_are_called_with_training_false():
    class ScaledInTraining(keras.layers.Layer):
        def call(self, inputs, training=True):
            return 5 * inputs if training else inputs

    inputs = keras.Input((4,))
    mmoe = tracked_block(pk.MMoEBlock, name="mmoe")
    model = keras.Model(inputs, mmoe(ScaledInTraining()(inputs)))
    expected = numpy_of(mmoe.gate_weights(X))["click"]
    np.testing.assert_allclose(pk.gate_weights(model, X)["mmoe"]["click"], expected, rtol=1e-5)


def test_observing_does_not_change_statistics_variables_or_losses():
    ple = tracked_block(gate_kwargs={"dropout": 0.9, "balance_regularizer": 1.0})
    model = compiled(functional(ple))
    model.fit(X, Y, verbose=0)
    before = ple[0].gate_statistics()["click"]["mean"]
    variables = [*map(numpy_of, model.variables)]
    losses = len(model.losses)
    pk.gate_weights(model, X, batch_size=2)
    np.testing.assert_array_equal(ple[0].gate_statistics()["click"]["mean"], before)
    np.testing.assert_equal([*map(numpy_of, model.variables)], variables)
    assert len(model.losses) == losses
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=once)])
def test_weights_are_at_least_float32(policy):
    keras.config.set_dtype_policy(policy)
    model = functional(tracked_block(gate_softmax_temperature=0.05))
    weights = pk.gate_weights(model, 10 * X)["ple/0"]["shared"]
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones(7), atol=0.02)


def test_a_refused_x_does_not_change_the_model():
    """Keras's own predict leaves a model without weights on JAX."""
    model = functional(tracked_block())
    expected = model.predict(X, verbose=0)
    with pytest.raises(ValueError, match="x must be valid input for the model"):
        pk.gate_weights(model, features(7, 5))
    with pytest.raises(ValueError, match="x must be valid input for the model"):
        pk.gate_weights(model, (part for part in (X, features(7, 5))))
    for task, prediction in model.predict(X, verbose=0).items():
        np.testing.assert_array_equal(prediction, expected[task])


@once
def test_a_level_inside_an_expert_is_not_observed():
    heads = pk.TaskHeads([pk.BinaryHead(task) for task in TASKS])
    inputs = keras.Input((4,))
    inner = pk.CGCBlock(["x"], [3], add_shared_gate=False, name="inner")
    expert = keras.Model(inputs, inner(inputs)["x"])
    model = chain(pk.HedgedBlock(heads, expert), heads, width=4)
    assert list(pk.gate_report(model, X).levels) == ["inner", "own"]  # of the shared branch
    assert pk.task_report(model, X, Y).examples == 7
    assert list(pk.fit_hedge(model, X, Y)) == TASKS


@once
def test_keys_of_a_sequential_block_in_another_one():
    inner = pk.SequentialBlock([pk.CGCBlock(["a"], [4])], name="ple")
    inner.side = pk.CGCBlock(["a"], [4], name="side")  # not among its layers, and never called
    block = pk.SequentialBlock([pk.CGCBlock(["a"], [4]), inner], name="ple")
    block(X)
    assert list(pk.gate_weights(block, X)) == ["ple/0", "ple/1/ple/0"]


# Refusals of all functions that call a model.

FUNCTIONS = {
    "gate_weights": lambda model, x, y, **kwargs: pk.gate_weights(model, x, **kwargs),
    "gate_report": lambda model, x, y, **kwargs: pk.gate_report(model, x, **kwargs),
    "task_report": pk.task_report,
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@once
@every_function
def test_a_model_must_be_a_built_layer(function):
    new = tracked_block()
    check_refused(lambda: function(3, X, Y), TypeError, r"model must be a Keras model.*model=3")
    check_refused(lambda: function(new, X, Y), ValueError, r"must be built.*built=False")


DATA = {
    "width": (features(7, 5), ValueError, r"valid input for the model.*x\.shape=\(7, 5\)"),
    "number": (3, TypeError, r"x must be arrays.*Received: x=3"),
    "no_row": (X[:0], ValueError, r"at least one row.*Received: rows=\[0"),
    "no_batch": (iter([]), ValueError, "x must not be empty.*batches=0"),
}


@pytest.fixture(scope="module")
def complete():
    return functional(tracked_block())


@once
@every_function
@pytest.mark.parametrize(("x", "error", "message"), table(DATA))
def test_x_must_be_input_of_the_model(complete, function, x, error, message):
    y = {task: of[: len(x)] for task, of in Y.items()} if isinstance(x, np.ndarray) else None
    check_refused(lambda: function(complete, x, y), error, message)


@once
@every_function
@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.5, TypeError)])
def test_batch_size_must_be_a_count(complete, function, size, error):
    message = r"batch_size must be (at least 1|an integer)"
    check_refused(lambda: function(complete, X, Y, batch_size=size), error, message)


def with_two_blocks_of_one_name():
    model = keras.layers.Layer()
    model.blocks, model.built = [pk.CGCBlock(["a"], [4], name="cgc") for _ in range(2)], True
    for block in model.blocks:
        block(X)
    return model


MODELS = {
    "no_blocks": (lambda: heads_alone(click_and_buy_heads(), width=4), "call a PLEBlock, MMoEBl"),
    "one_name": (with_two_blocks_of_one_name, "two blocks called 'cgc'"),
}
test_other_models_are_refused = all_refused(lambda make: pk.gate_weights(make(), X), MODELS)
