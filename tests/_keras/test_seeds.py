"""Files keep the seeds of dropout: a loaded model draws the same values as the saved one."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, features, numpy_of, once
from tests.models import chain, compiled, loaded

X = features(16, 5)
Y = {"click": (X[:, :1] > 0).astype("float32"), "buy": (X[:, 1:2] > 0).astype("float32")}


def model_with_dropout(seed=0, gate_dropout=0.3, rate=0.4, **kwargs):
    """Return a model whose gates, gate blocks, experts and towers drop values."""
    keras.utils.set_random_seed(seed)
    block = pk.ExpertBlock([4], dropout=rate)
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=block, metrics=[]) for task in Y])
    ple = pk.PLEBlock(
        1, heads, block, gate_block=block, gate_kwargs={"dropout": gate_dropout}, **kwargs
    )
    return compiled(chain(ple, heads, width=5), keras.optimizers.SGD(0.1), **QUICK)


def weights_loaded(model, folder):
    """Return a model of copied experts with different seeds that has loaded the weights."""
    model.save_weights(folder / "model.weights.h5")
    other = model_with_dropout(seed=1, stack_experts=False)
    other.load_weights(folder / "model.weights.h5")
    return other


def train(model, steps=2):
    """Train and return the weights. PyTorch draws dropout without a seed from its own generator."""
    keras.utils.set_random_seed(2)
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return [numpy_of(weight) for weight in model.trainable_weights]


def states(model):
    return [numpy_of(variable) for variable in model.variables if "seed" in variable.path]


@pytest.mark.parametrize(
    ("stack_experts", "copy"), [(True, loaded), pytest.param(False, weights_loaded, marks=once)]
)
def test_training_continues_with_the_same_draws(stack_experts, copy, tmp_path):
    model = model_with_dropout(stack_experts=stack_experts)
    train(model)
    other = copy(model, tmp_path)
    assert len(states(model)) > 5
    np.testing.assert_array_equal(states(other), states(model))
    np.testing.assert_equal(train(other), train(model))


@once
@pytest.mark.filterwarnings("error::UserWarning")
def test_weights_of_models_with_and_without_seeds_are_exchanged_without_a_warning(tmp_path):
    plain, dropping = model_with_dropout(gate_dropout=0, rate=0), model_with_dropout(seed=1)
    before = states(dropping)
    plain.save_weights(tmp_path / "plain.weights.h5")
    dropping.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_array_equal(states(dropping), before)
    np.testing.assert_array_equal(numpy_of(dropping(X))["buy"], numpy_of(plain(X))["buy"])
    other = model_with_dropout(seed=1)
    other.save_weights(tmp_path / "dropping.weights.h5")
    plain.load_weights(tmp_path / "dropping.weights.h5")
    np.testing.assert_array_equal(numpy_of(plain(X))["buy"], numpy_of(other(X))["buy"])
