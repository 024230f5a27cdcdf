"""Steps with code of users: eager by default, and traced with `compile(trace=True)`."""

import gc
import warnings
from threading import Event, Thread

import keras
import numpy as np
import pytest
from keras import layers, ops

import ple_keras as pk
from ple_keras._keras.layers import Untracked
from tests.helpers import every_backend, numpy_of, once
from tests.models import loaded
from tests.training.traced_steps import (
    assert_equal_steps,
    dense,
    graphs,
    heads_of_two,
    numbers_and_labels,
    train,
)

pytestmark = once

HIDDEN = Untracked(None)
FIT = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


@keras.saving.register_keras_serializable("tests")
class Custom(layers.Layer):
    """A layer with a function, and attributes that the function can change."""

    def __init__(self, function):
        super().__init__()
        self.function, self.count, self.history = function, 0, []

    def call(self, inputs):
        return self.function(self, inputs)


def count_in_history(layer, x):
    layer.history.append(1)
    return x * len(layer.history)


def branch_on_data(layer, x):
    return x if ops.sum(x) > 0 else -x


def update_hidden_variable(layer, x):
    HIDDEN.value.assign_add([0.1])
    return x * HIDDEN.value


def multiply(layer, x):
    return x * (1 + layer.count)


@keras.saving.register_keras_serializable("tests")
def own_absolute_error(y_true, y_pred):
    return ops.abs(y_true - y_pred)


def own_activation(x):
    return ops.tanh(x) * 2


@keras.saving.register_keras_serializable("tests")
class TwoLosses(pk.MultiTaskModel):
    """A model with a backward pass of its own."""

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training:
            sum(ops.sum(weight.value**2) for weight in self.trainable_variables).backward()
        return loss


def two_losses(**compile_kwargs):
    model = dense()
    model = TwoLosses(model.input, model.output)
    model.compile(keras.optimizers.Adam(0.05), **compile_kwargs)
    return model


def with_layer(function, **compile_kwargs):
    def make():
        HIDDEN.value = keras.Variable([1.0], name="hidden")
        return dense(before=[Custom(function)], **compile_kwargs)

    return make


USERS = {
    "a counter in an attribute": with_layer(count_in_history),
    "a branch": with_layer(branch_on_data),
    "a hidden variable": with_layer(update_hidden_variable),
    "an activation": lambda: dense(before=[layers.Dense(3, activation=own_activation)]),
    "a backward pass": two_losses,
}


@pytest.mark.parametrize("name", USERS)
def test_code_of_users_runs_eagerly_with_one_warning(name):
    with pytest.warns(UserWarning, match=r"Steps of .* eagerly(?s:.)*trace=True") as caught:
        model = assert_equal_steps(USERS[name], traced=0)
    found = [str(w.message) for w in caught if "eagerly" in str(w.message)]
    assert len(found) == 1
    assert "test_code_of_users.py:" in found[0]
    x, y = numbers_and_labels()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Steps of")
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)


def test_predictions_run_no_loss_and_are_traced():
    def make():
        return dense(heads=pk.TaskHeads([pk.RegressionHead("stars", loss=own_absolute_error)]))

    with pytest.warns(UserWarning, match="eagerly"):
        model = assert_equal_steps(make, traced=0)
    for _ in range(2):
        model.predict_on_batch(numbers_and_labels()[0])
    assert graphs(model, "predict") == 1


# compile(trace=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_layer(multiply, trace=True)(),
        lambda: two_losses(trace=True),
        lambda: dense(before=[layers.Dense(3, activation=own_activation)], trace=True),
    ],
)
def test_code_of_users_is_traced_on_demand(make):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Steps of")
        assert_equal_steps(make)


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (branch_on_data, r"\w+: .* \(.*test_code_of_users\.py:\d+\)"),
        (update_hidden_variable, "UntraceableError: no layer .* tracks the variable 'hidden'"),
    ],
)
def test_code_that_cannot_be_traced_on_demand_runs_eagerly_with_a_warning(function, cause):
    with pytest.warns(UserWarning, match=f"run eagerly: layers.*Received: trace=True and {cause}"):
        assert_equal_steps(with_layer(function, trace=True), traced=0)


@pytest.mark.parametrize("trace", ["auto", True])
def test_attributes_are_constants_until_compile(trace):
    x, _ = numbers_and_labels()
    layer = layers.Dense(3) if trace == "auto" else Custom(multiply)
    model = dense(before=[layer], trace=trace)
    before = [model.predict(x, verbose=0)["click"] for _ in range(2)][-1]
    layer.activation, layer.count = keras.activations.tanh, 1
    np.testing.assert_array_equal(model.predict(x, verbose=0)["click"], before)
    model.compile("sgd", trace=trace)
    np.testing.assert_array_equal(model.predict(x, verbose=0)["click"], numpy_of(model(x)["click"]))
    assert graphs(model, "predict") == 0  # the first batch of a shape is eager


def test_no_step_is_traced_with_false_or_eagerly():
    for trace, is_eager in ((False, False), (True, True)):
        model = train(lambda: dense(trace=trace), is_eager, epochs=1)[0]  # noqa: B023
        assert not hasattr(model.train_function, "_graphs")


@every_backend
@pytest.mark.parametrize("trace", ["auto", True, False])
def test_the_argument_is_saved_with_the_model(trace, tmp_path):
    assert loaded(dense(trace=trace), tmp_path).get_compile_config()["trace"] == trace


@pytest.mark.parametrize("trace", ["all", None, 1, 0.0])
def test_other_values_are_refused(trace):
    with pytest.raises(ValueError, match=r"trace must be 'auto', True or False\. Received: trace="):
        dense(trace=trace)


# Threads


def test_threads_predict_compile_and_assign_while_another_one_traces():
    heads = heads_of_two()
    block = pk.HedgedBlock(heads, [4])
    model, other = dense(block, heads), dense()
    x, y = numbers_and_labels()
    ended, errors = Event(), []

    def run(action):
        try:
            while not ended.wait(0.01):
                action()
        except Exception as error:
            errors.append(error)

    def compile_other():
        other.compile(keras.optimizers.SGD(0.125))
        other.mark = other.optimizer
        assert other.mark is other.optimizer

    actions = [lambda: model.predict_on_batch(x), compile_other]
    threads = [Thread(target=run, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    model.fit(x, y, callbacks=[pk.FitHedge((x, y))], **FIT)
    ended.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert graphs(model) >= 1


def test_code_that_runs_by_chance_is_not_found():
    class Finalized:
        def __del__(self):
            pass

    model, (x, y) = dense(), numbers_and_labels()
    found = Finalized()
    found.itself = found
    del found
    thresholds = gc.get_threshold()
    gc.set_threshold(1)  # in the first step
    model.train_on_batch(x, y)
    gc.set_threshold(*thresholds)
    for _ in range(2):
        model.train_on_batch(x, y)
    assert graphs(model) == 1


@keras.saving.register_keras_serializable("tests")
class Accumulating(keras.optimizers.SGD):
    """An optimizer whose code runs in every second step only."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, 0.1 * gradient)


def test_an_optimizer_whose_code_runs_seldom_trains_eagerly():
    def make():
        return dense(optimizer=Accumulating(0.05, gradient_accumulation_steps=2))

    assert_equal_steps(make, traced=0, epochs=3)
