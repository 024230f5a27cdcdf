"""A restored model continues training exactly like the original model."""

import pickle

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, features, numpy_of, once
from tests.models import chain, compiled, heads_of
from tests.models import loaded as load_again
from tests.pairs import pairs
from tests.templates import CopiedExpert

BEFORE, AFTER = 3, 5  # steps
TASKS = ("click", "time", "cost")
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "muon_by_path": lambda: keras.optimizers.Muon(0.01, exclude_layers=["last"]),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
}
if hasattr(keras.optimizers, "MultiOptimizer"):
    OPTIMIZERS["by_path"] = lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(0.01), {"last/.*": keras.optimizers.SGD(0.5)}
        )
    )


def new_heads(loss_weighting=None):
    heads = [
        pk.BinaryHead("click", tower=[3]),
        pk.RegressionHead("time", loss_weight=2.0),
        pk.RegressionHead("cost"),
    ]
    return pk.TaskHeads(heads, loss_weighting, name="last")


def one_ple(loss_weighting=None):
    heads = new_heads(loss_weighting)
    ple = pk.PLEBlock(2, heads, CopiedExpert([4]), num_task_experts=2, gate_block=[3], name="ple")
    return chain(ple, heads, width=4)


def two_ples():
    inputs = keras.Input((4,))
    user = pk.PLEBlock(1, TASKS[:2], [4], name="user")(inputs)
    item = pk.PLEBlock(2, TASKS[2:], [4], name="item")(inputs)
    return pk.MultiTaskModel(inputs, new_heads()({**user, **item}))


def hedged():
    heads = new_heads()
    return chain(pk.HedgedBlock(heads, [4], name="hedged"), heads, width=4)


def frozen_experts():
    model = one_ple()
    ple = model.get_layer("ple")
    ple[0].get_expert("shared/expert_0").trainable = False
    ple[1].get_expert("click/expert_1").trainable = False
    return model


def moved_and_learned_weights():
    model = one_ple("uncertainty")
    heads_of(model).multiply_loss_weights({"click": 0.5, "time": 2.0})
    return model


MODELS = {make.__name__: make for make in (two_ples, hedged, frozen_experts)}
MODELS["moved_and_learned_weights"] = moved_and_learned_weights


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
DAILY = [
    (two_ples, LAST, cloned),
    (hedged, "adam", loaded),
    pytest.param(frozen_experts, "adam", loaded, marks=once),
    (moved_and_learned_weights, LAST, pickled),
]
WAYS = {way.__name__: way for way in (loaded, cloned, pickled)}
ALL = pairs({name: name for name in OPTIMIZERS}, WAYS, MODELS)
NIGHTLY = [
    pytest.param(make, name, way, id=each.id, marks=pytest.mark.nightly)
    for each in ALL
    for name, way, make in [each.values]
]


@pytest.mark.parametrize(("make", "optimizer", "way"), [*DAILY, *NIGHTLY])
def test_a_restored_model_trains_like_the_original(make, optimizer, way, tmp_path):
    model = compiled(make(), OPTIMIZERS[optimizer](), **QUICK)
    train(model, BEFORE, seed=1)
    copy = way(model, OPTIMIZERS[optimizer](), tmp_path)
    losses = train(model, AFTER, seed=2)
    # Compiled programs can round differently.
    atol = 0 if keras.backend.backend() == "torch" else 1e-6
    np.testing.assert_allclose(train(copy, AFTER, seed=2), losses, rtol=0, atol=atol)
    for one, other in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_allclose(numpy_of(one), numpy_of(other), rtol=0, atol=atol)
