"""A restored model continues training exactly like the original model."""

import pickle

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, assert_all_close, features, numpy_of
from tests.models import compiled
from tests.models import loaded as load_again
from tests.pairs import pairs
from tests.templates import CopiedExpert

pytestmark = pytest.mark.nightly

BEFORE, AFTER = 3, 5  # steps
TASKS = ("click", "time", "cost")
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "muon_by_path": lambda: keras.optimizers.Muon(0.01, exclude_layers=["last"]),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "by_path": lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(0.01), {"last/.*": keras.optimizers.SGD(0.5)}
        )
    ),
}


def two_ples():
    heads = [
        pk.BinaryHead("click", tower=[3]),
        pk.RegressionHead("time", loss_weight=2.0),
        pk.RegressionHead("cost"),
    ]
    inputs = keras.Input((4,))
    user = pk.PLEBlock(1, TASKS[:2], [4], name="user")(inputs)
    item = pk.PLEBlock(2, TASKS[2:], CopiedExpert([4]), gate_block=[3], name="item")(inputs)
    return pk.MultiTaskModel(inputs, pk.TaskHeads(heads, name="last")({**user, **item}))


def train(model, count, seed):
    """Train on batches and return the loss of each step."""
    rng = np.random.default_rng(seed)
    losses = []
    for step in range(count):
        y = {task: rng.integers(0, 2, (6, 1)).astype("float32") for task in TASKS}
        x = features(6, 4, seed=100 * seed + step)
        losses.append(float(model.train_on_batch(x, y, return_dict=True)["loss"]))
    return losses


def loaded(model, optimizer, folder):
    return load_again(model, folder)


def cloned(model, optimizer, folder):
    """Clone a model and copy its weights and optimizer state, which a clone lacks."""
    clone = compiled(keras.models.clone_model(model), optimizer, **QUICK)
    clone.set_weights(model.get_weights())
    clone.optimizer.build(clone.trainable_variables)
    for variable, original in zip(clone.optimizer.variables, model.optimizer.variables):
        variable.assign(numpy_of(original))
    return clone


def pickled(model, optimizer, folder):
    return pickle.loads(pickle.dumps(model))


LAST = list(OPTIMIZERS)[-1]
WAYS = {way.__name__: way for way in (loaded, cloned, pickled)}
ALL = pairs({name: name for name in OPTIMIZERS}, WAYS)
NIGHTLY = [pytest.param(*each.values, id=each.id, marks=pytest.mark.nightly) for each in ALL]


@pytest.mark.parametrize(("optimizer", "way"), [("adam", loaded), (LAST, cloned), *NIGHTLY])
def test_a_restored_model_trains_like_the_original(optimizer, way, tmp_path):
    model = compiled(two_ples(), OPTIMIZERS[optimizer](), **QUICK)
    train(model, BEFORE, seed=1)
    copy = way(model, OPTIMIZERS[optimizer](), tmp_path)
    losses = train(model, AFTER, seed=2)
    # Compiled programs can round differently.
    atol = 0 if keras.backend.backend() == "torch" else 1e-6
    np.testing.assert_allclose(train(copy, AFTER, seed=2), losses, rtol=0, atol=atol)
    assert_all_close(copy.get_weights(), model.get_weights(), rtol=0, atol=atol)
