"""Models are equal after any sequence of saving, loading, cloning, pickling, freezing, transfer and
training.

Random chains of these steps are applied to random models (see `tests._keras.random_models`). After
each step, predictions, paths of weights, trainable weights and loss weights are the same as before.
The model also trains like the model before the step. Each weight has a unique path.

`ROUND_TRIPS=200` runs 200 chains with a new random seed. `--hypothesis-show-statistics` shows the
steps of the chains.
"""

import os
import pickle
import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import ple_keras as pk
from tests._keras.random_models import ALONE, ROWS, WIDTH, models
from tests.helpers import assert_same, features, numpy_of
from tests.models import assert_unique_paths, heads_of

BACKEND = keras.backend.backend()
QUICK = 3 if BACKEND == "torch" else 1  # chains within the time limit
CHAINS = int(os.environ.get("ROUND_TRIPS", QUICK))
X = features(ROWS, WIDTH)

pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow compiles each model, which is slow"
)


# State of a model.


def predictions(model):
    return numpy_of(model(X))


def path_of(weight):
    """Return the path of a weight without the names that Keras itself loses."""
    return re.sub(ALONE, "", weight.path)


def is_trained(model):
    trained = {id(weight) for weight in model.trainable_weights}
    return {path_of(weight): id(weight) in trained for weight in model.weights}


def values(model):
    """Return the values of all weights, except gate statistics, which are not saved."""
    return {path_of(weight): numpy_of(weight) for weight in model.weights if weight.name != "sums"}


# Training.

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    # The large epsilon avoids amplifying rounding errors of zero gradients.
    "adam": lambda: keras.optimizers.Adam(0.05, epsilon=1e-2),
}


def compile_again(model, optimizer):
    model.compile(OPTIMIZERS[optimizer](), jit_compile=False)


def labels(model):
    """Return labels of every task. A quarter is missing, except for multiclass tasks."""
    rng = np.random.default_rng(0)
    y = {}
    for head in (layer for layer in model._flatten_layers() if isinstance(layer, pk.Head)):
        if isinstance(head, pk.MulticlassHead):
            y[head.task] = rng.integers(0, 3, ROWS)
        else:
            y[head.task] = rng.integers(0, 2, ROWS).astype("float32")
            y[head.task][::4] = np.nan
    return y


def train(model):
    """Train for one step, check that frozen weights do not change, and return the logs."""
    before = values(model)
    logs = model.train_on_batch(X, labels(model), return_dict=True)
    after = values(model)
    for path in frozen(model):
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    return {key: float(value) for key, value in logs.items()}


def frozen(model):
    """Return the paths of the weights that training does not change.

    It changes the moving statistics of a trainable BatchNormalization.
    """
    changed = [weight.path for weight in model.trainable_weights]
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            changed += [weight.path for weight in layer.weights]
    frozen = [weight for weight in model.weights if weight.path not in changed]
    return [path_of(weight) for weight in frozen if weight.name != "sums"]


# Checks.

assert_equal = partial(assert_same, atol=1e-6)


def assert_equal_models(model, before):
    """Check that two models have equal paths, weights, loss weights and predictions."""
    assert_unique_paths(model)
    assert is_trained(model) == is_trained(before)
    assert_equal(heads_of(model).loss_weights(), heads_of(before).loss_weights())
    assert_equal(values(model), values(before))
    assert_equal(predictions(model), predictions(before))


def assert_equal_training(model, before):
    """Check that a training step has the same effect on two models."""
    assert_equal(train(model), train(before))
    assert_equal(values(model), values(before))
    assert_equal(predictions(model), predictions(before))


# Steps.


@dataclass
class Trip:
    """A model, and the recipe, optimizer and folder for creating it again."""

    recipe: object
    optimizer: str
    folder: Path
    model: object = None

    def start(self):
        self.model = self.recipe()
        assert_unique_paths(self.model)
        heads = heads_of(self.model)
        weights = {task: 0.5 + i for i, task in enumerate(heads.trained_tasks)}
        heads.multiply_loss_weights(weights)
        compile_again(self.model, self.optimizer)
        train(self.model)

    def new_model(self):
        """Create a new model with the same frozen layers."""
        model = self.recipe()
        layers, frozen = model._flatten_layers(), self.model._flatten_layers()
        for layer, other in zip(layers, frozen, strict=True):
            if layer.trainable != other.trainable:
                layer.trainable = other.trainable
        return model

    def replace_model(self, model, with_optimizer):
        """Check that a model equals the current one, and continue with it."""
        assert_equal_models(model, self.model)
        if not with_optimizer:
            compile_again(self.model, self.optimizer)
            compile_again(model, self.optimizer)
        assert_equal_training(model, self.model)
        self.model = model


def save_and_load(trip):
    trip.model.save(trip.folder / "model.keras")
    model = keras.models.load_model(trip.folder / "model.keras")
    trip.replace_model(model, with_optimizer=True)


def unpickle(trip):
    model = pickle.loads(pickle.dumps(trip.model))
    trip.replace_model(model, with_optimizer=True)


def load_weights_into_a_new_model(trip):
    trip.model.save_weights(trip.folder / "model.weights.h5")
    model = trip.new_model()
    model.load_weights(trip.folder / "model.weights.h5")
    trip.replace_model(model, with_optimizer=False)


def clone(trip):
    model = keras.models.clone_model(trip.model)
    model.set_weights(trip.model.get_weights())
    trip.replace_model(model, with_optimizer=False)


def transfer(trip):
    model = trip.new_model()
    done = pk.transfer_weights(trip.model, model)
    assert (done.new, done.left_out) == ((), {})
    trip.replace_model(model, with_optimizer=False)


@dataclass(frozen=True)
class Freeze:
    """Freeze or thaw an inner layer."""

    place: int
    trainable: bool

    def __call__(self, trip):
        layers = trip.model._flatten_layers(include_self=False)
        layer = layers[self.place % len(layers)]
        before, expected = predictions(trip.model), self.expected(trip.model, layer)
        if not any(expected.values()):  # no trainable weights would remain
            return
        layer.trainable = self.trainable
        assert is_trained(trip.model) == expected
        assert_equal(predictions(trip.model), before)
        compile_again(trip.model, trip.optimizer)
        train(trip.model)

    def expected(self, model, layer):
        """Return for each weight whether it is trained after this step."""
        inside = [w for each in layer._flatten_layers() for w in each._trainable_variables]
        return is_trained(model) | {path_of(weight): self.trainable for weight in inside}


freezes = st.builds(Freeze, st.integers(0, 100), st.booleans())
others = [save_and_load, unpickle, load_weights_into_a_new_model, clone, transfer]
steps = st.one_of(freezes, *map(st.just, others))


@hypothesis.settings(
    max_examples=CHAINS,
    derandomize="ROUND_TRIPS" not in os.environ,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    report_multiple_bugs=False,
)
@hypothesis.given(
    chain=st.lists(steps, min_size=2, max_size=4),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    recipe=models(),
)
def test_a_model_is_the_same_after_any_chain_of_steps(chain, optimizer, recipe):
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trip = Trip(recipe, optimizer, Path(folder))
        trip.start()
        for step in chain:
            hypothesis.event(getattr(step, "__name__", "Freeze"))
            step(trip)
