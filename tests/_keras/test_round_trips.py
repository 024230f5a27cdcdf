"""Models are equal after a chain of saving, loading, cloning, pickling, freezing and transfer.

After each step, predictions, paths of weights, trainable weights and loss weights are the same as
before, and the model trains like the model before the step.
"""

import pickle
from functools import partial

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests._keras.test_paths import heads, hedged_block_and_heads, ple_and_heads, streams_of
from tests.helpers import QUICK, assert_same, features, numpy_of, once
from tests.models import assert_unique_paths, chain, heads_of

pytestmark = once

ROWS = 8
X = features(ROWS, 6)
Y = {"a": np.where(np.arange(ROWS) % 4, X[:, 0] > 0, np.nan), "b": X[:, 1] > 0}


def streams_and_heads():
    layers = [keras.layers.Dense(3, name="dense"), keras.layers.BatchNormalization(name="norm")]
    network = keras.Sequential(layers, name="network")
    return chain(streams_of(network), heads("a", "b", name="task_heads"), width=6)


def predictions(model):
    return numpy_of(model(X))


def is_trained(model):
    trained = {id(weight) for weight in model.trainable_weights}
    return {weight.path: id(weight) in trained for weight in model.weights}


def values(model):
    """Return the values of all weights, except gate statistics, which are not saved."""
    return {weight.path: numpy_of(weight) for weight in model.weights if weight.name != "sums"}


def compile_again(model):
    model.compile(keras.optimizers.Adam(0.05, epsilon=1e-2), **QUICK)


def train(model):
    """Train for one step, and return the logs."""
    logs = model.train_on_batch(X, Y, return_dict=True)
    return {key: float(value) for key, value in logs.items()}


assert_equal = partial(assert_same, atol=1e-6)


def assert_equal_models(model, before):
    """Check that two models have equal paths, weights, loss weights and predictions."""
    assert_unique_paths(model)
    assert is_trained(model) == is_trained(before)
    assert_equal(heads_of(model).loss_weights(), heads_of(before).loss_weights())
    assert_equal(values(model), values(before))
    assert_equal(predictions(model), predictions(before))


# Steps. Each takes the model, a function that creates it, and a folder.


def save_and_load(model, make, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def unpickle(model, make, folder):
    return pickle.loads(pickle.dumps(model))


def new_model(model, make):
    """Create a new model with the same frozen layers."""
    other = make()
    for layer, frozen in zip(other._flatten_layers(), model._flatten_layers(), strict=True):
        if layer.trainable != frozen.trainable:
            layer.trainable = frozen.trainable
    return other


def load_weights_into_a_new_model(model, make, folder):
    model.save_weights(folder / "model.weights.h5")
    other = new_model(model, make)
    other.load_weights(folder / "model.weights.h5")
    return other


def clone(model, make, folder):
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    return other


def transfer(model, make, folder):
    other = new_model(model, make)
    done = pk.transfer_weights(model, other)
    assert (done.new, done.left_out) == ((), {})
    return other


def freeze(model):
    """Freeze a head and thaw its last weights. Check that training changes no frozen weight."""
    head = heads_of(model)["a"]
    head.trainable = False
    head._projection.trainable = True
    compile_again(model)
    before = values(model)
    train(model)
    after, trained = values(model), is_trained(model)
    unchanged = [path for path in after if not trained[path] and "moving" not in path]
    assert any("tower" in path for path in unchanged)
    for path in unchanged:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


CHAINS = {
    "ple": (ple_and_heads, [save_and_load, clone, unpickle]),
    "hedged": (hedged_block_and_heads, [save_and_load, transfer]),
    "streams": (streams_and_heads, [load_weights_into_a_new_model, save_and_load, transfer]),
}


@pytest.mark.parametrize(("make", "steps"), CHAINS.values(), ids=CHAINS)
def test_a_model_is_the_same_after_a_chain_of_steps(make, steps, tmp_path):
    model = make()
    heads_of(model).multiply_loss_weights({"a": 0.5, "b": 1.5})
    compile_again(model)
    train(model)
    freeze(model)
    for step in steps:
        again = step(model, make, tmp_path)
        assert_equal_models(again, model)
        if step in (save_and_load, unpickle):
            again.run_eagerly = model.run_eagerly
        else:  # without the state of the optimizer
            compile_again(model)
            compile_again(again)
        assert_equal(train(again), train(model))
        assert_equal_models(again, model)
        model = again
