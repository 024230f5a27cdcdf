"""What holds of a model holds after it was saved, loaded, cloned, copied, frozen, transferred,
trained or quantized, in any order.

Random models (see `tests._keras.random_models`) go through random chains of these steps. After each
step the model predicts as before, its weights have the same paths, one for each, the same weights
are trained, the losses weigh the same, and it goes on training as the model before the step does.

`ROUND_TRIPS=200` runs as many chains with a new random seed; the statistics of
`--hypothesis-show-statistics` tell what they were made of.
"""

import copy
import gc
import os
import pickle
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import ple_keras as pk
from tests._keras.random_models import ALONE, ROWS, WIDTH, OwnModel, TwoDense, models
from tests.helpers import features, numpy_of

BACKEND = keras.backend.backend()
QUICK = {"torch": 10, "jax": 10, "tensorflow": 1}[BACKEND]  # chains within the time there is
CHAINS = int(os.environ.get("ROUND_TRIPS", QUICK))
X = features(ROWS, WIDTH)

pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow compiles each of the models, slowly"
)


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    """Keras collects garbage after each layer that it quantizes, all of a test run's."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


# Looking at a model.


def the_heads(model):
    return next(layer for layer in model._flatten_layers() if isinstance(layer, pk.TaskHeads))


def predictions(model):
    return numpy_of(model(X))


def path_of(weight):
    """Its path without the names that Keras itself loses."""
    return re.sub(ALONE, "", weight.path)


def is_trained(model):
    trained = {id(weight) for weight in model.trainable_weights}
    return {path_of(weight): id(weight) in trained for weight in model.weights}


def values(model):
    """Of all weights but the statistics of gates, which belong to no file."""
    return {path_of(weight): numpy_of(weight) for weight in model.weights if weight.name != "sums"}


def is_loaded_quantized(layer):
    """Whether a file keeps it quantized: a user's layer with layers inside it does not, in Keras.

    Nor a Gate that no CGCBlock holds.
    """
    if isinstance(layer, pk.CGCBlock | pk.SharedBottomBlock | pk.ExpertBlock | pk.Head):
        return True
    if isinstance(layer, pk.Gate | TwoDense):
        return False
    return all(map(is_loaded_quantized, layer._layers))


def is_quantized(model):
    return any(layer.quantization_mode for layer in model._flatten_layers())


# Training.

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    # A large epsilon: rounding errors of a gradient of 0 must not be made large.
    "adam": lambda: keras.optimizers.Adam(0.05, epsilon=1e-2),
}


def compile_anew(model, optimizer):
    kwargs = the_heads(model).compile_kwargs(optimizer=OPTIMIZERS[optimizer]())
    model.compile(jit_compile=False, **kwargs)


def labels(model):
    """Of every task, a fourth of those of binary tasks and numbers missing."""
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
    """The logs of a step, in which what is frozen stays."""
    before = values(model)
    model.reset_metrics()  # Keras 3.12 logs the mean over all steps so far
    logs = model.train_on_batch(X, labels(model), return_dict=True)
    after = values(model)
    for path in frozen(model):
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    return {key: float(value) for key, value in logs.items()}


def frozen(model):
    """The paths of the weights that no step changes; of a BatchNormalization it does."""
    changed = [weight.path for weight in model.trainable_weights]
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            changed += [weight.path for weight in layer.weights]
    frozen = [weight for weight in model.weights if weight.path not in changed]
    return [path_of(weight) for weight in frozen if weight.name != "sums"]


# What must hold.


def assert_equal(actual, expected):
    assert sorted(actual) == sorted(expected)
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-5, atol=1e-6, err_msg=key)


def assert_a_path_for_each_weight(model):
    assert len({weight.path for weight in model.weights}) == len(model.weights)
    if BACKEND == "torch" and not is_quantized(model):  # loaded, it has the old kernels too
        variables = {id(variable.value) for variable in model.variables}
        assert {id(parameter) for parameter in model.parameters()} == variables


def assert_alike(model, before):
    """It has the paths, trained weights, loss weights and predictions of another."""
    assert_a_path_for_each_weight(model)
    assert is_trained(model) == is_trained(before)
    assert_equal(the_heads(model).loss_weights(), the_heads(before).loss_weights())
    assert_equal(values(model), values(before))
    assert_equal(predictions(model), predictions(before))


def assert_trained_alike(model, before):
    """Both go on training alike."""
    assert_equal(train(model), train(before))
    assert_equal(values(model), values(before))
    assert_equal(predictions(model), predictions(before))


# Steps.


@dataclass
class Trip:
    """A model on its way, and what it needs to be made anew."""

    recipe: object
    optimizer: str
    folder: Path
    model: object = None

    def start(self):
        self.model = self.recipe()
        assert_a_path_for_each_weight(self.model)
        heads = the_heads(self.model)
        weights = {task: 0.5 + i for i, task in enumerate(heads.trained_tasks)}
        heads.multiply_loss_weights(weights)
        compile_anew(self.model, self.optimizer)
        train(self.model)

    def new(self):
        """Another model of the recipe, of which the same is frozen and quantized."""
        model = self.recipe()
        if is_quantized(self.model):
            model.quantize("int8")
        layers, frozen = model._flatten_layers(), self.model._flatten_layers()
        for layer, other in zip(layers, frozen, strict=True):
            if layer.trainable != other.trainable:
                layer.trainable = other.trainable
        return model

    def go_on_with(self, model, with_optimizer):
        """Take another model for the one so far, to which it must be equal."""
        assert_alike(model, self.model)
        if not with_optimizer:
            compile_anew(self.model, self.optimizer)
            compile_anew(model, self.optimizer)
        assert_trained_alike(model, self.model)
        self.model = model


def save_and_load(trip):
    trip.model.save(trip.folder / "model.keras")
    model = keras.models.load_model(trip.folder / "model.keras")
    trip.go_on_with(model, with_optimizer=not is_quantized(model))


def deep_copy(trip):
    model = copy.deepcopy(trip.model)
    trip.go_on_with(model, with_optimizer=not is_quantized(model))


def unpickle(trip):
    model = pickle.loads(pickle.dumps(trip.model))
    trip.go_on_with(model, with_optimizer=not is_quantized(model))


def load_weights_into_a_new_model(trip):
    trip.model.save_weights(trip.folder / "model.weights.h5")
    model = trip.new()
    model.load_weights(trip.folder / "model.weights.h5")
    trip.go_on_with(model, with_optimizer=False)


def clone(trip):
    if isinstance(trip.model, OwnModel) or is_quantized(trip.model):
        hypothesis.event("no clone of a subclassed or quantized model")
        return
    model = keras.models.clone_model(trip.model)
    model.set_weights(trip.model.get_weights())
    trip.go_on_with(model, with_optimizer=False)


def transfer(trip):
    if is_quantized(trip.model):
        return
    model = trip.new()
    done = pk.transfer_weights(trip.model, model)
    assert (done.new, done.left_out) == ((), {})
    trip.go_on_with(model, with_optimizer=False)


def train_twice(trip):
    train(trip.model)
    train(trip.model)


def quantize(trip):
    if is_quantized(trip.model) or not is_loaded_quantized(trip.model):
        return
    trip.model.quantize("int8")
    compile_anew(trip.model, trip.optimizer)
    train(trip.model)


@dataclass(frozen=True)
class Freeze:
    """Freeze or thaw one of the layers inside."""

    place: int
    trainable: bool

    def __call__(self, trip):
        if isinstance(trip.model, OwnModel):  # its file doesn't tell
            return
        layers = trip.model._flatten_layers(include_self=False)
        layer = layers[self.place % len(layers)]
        before, expected = predictions(trip.model), self.expected(trip.model, layer)
        if not any(expected.values()):  # there would be nothing to train
            return
        layer.trainable = self.trainable
        assert is_trained(trip.model) == expected
        assert_equal(predictions(trip.model), before)
        compile_anew(trip.model, trip.optimizer)
        train(trip.model)

    def expected(self, model, layer):
        """Which weights are trained afterwards."""
        inside = [w for each in layer._flatten_layers() for w in each._trainable_variables]
        return is_trained(model) | {path_of(weight): self.trainable for weight in inside}


freezes = st.builds(Freeze, st.integers(0, 100), st.booleans())
others = [
    *(save_and_load, deep_copy, unpickle, load_weights_into_a_new_model, clone, transfer),
    *(train_twice, quantize),
]
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
