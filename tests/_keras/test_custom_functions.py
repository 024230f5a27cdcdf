"""Custom functions are kept or refused: no copy and no file replaces them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import ple_keras as pk
from tests.helpers import every_backend, numpy_of, once
from tests.models import compiled, heads_alone, loaded
from tests.pairs import pairs
from tests.refusals import check_refused

pytestmark = once

ONES = np.ones((1, 1), "float32")


def leaky_relu(x):
    """A function with the name of a Keras function."""
    return x - 7.0


def unregistered(x):
    return x - 7.0


@keras.saving.register_keras_serializable(package="test_custom_functions")
def relu(x):
    """A registered function with the name of a Keras function."""
    return x - 7.0


def dense(activation=relu, **kwargs):
    return layers.Dense(1, activation, kernel_initializer="ones", **kwargs)


def functional(activation=relu):
    inputs = keras.Input((1,))
    return keras.Model(inputs, dense(activation)(inputs))


TEMPLATES = {
    "expert_block": lambda f: pk.ExpertBlock([1], f, kernel_initializer="ones"),
    "dense": dense,
    "sequential": lambda f: keras.Sequential([dense(f)]),
    "built_sequential": lambda f: keras.Sequential([keras.Input((1,)), dense(f)]),
    "functional": functional,
    "wrapper": lambda f: layers.SpectralNormalization(dense(f)),
    "sequential_block": lambda f: pk.SequentialBlock([dense(f)]),
}
PLACES = {
    "expert_block": lambda block: pk.CGCBlock(["a"], block, 1, 0, add_shared_gate=False)(ONES)["a"],
    "bottom_block": lambda block: pk.SharedBottomBlock(["a"], block)(ONES)["a"],
    "feature_block": lambda block: pk.StreamFeatures(["a"], block)(ONES)["a"],
    "gate_block": lambda block: inner(pk.Gate(2, gate_block=block), "_block"),
    "tower": lambda block: inner(pk.RegressionHead("a", tower=block), "_tower"),
}


def inner(layer, attribute):
    layer(ONES)
    return getattr(layer, attribute)(ONES)


@pytest.mark.parametrize(("template", "place"), pairs(TEMPLATES, PLACES))
def test_a_copy_has_the_registered_function_of_its_template(template, place):
    np.testing.assert_allclose(numpy_of(place(template(relu))), [[-6.0]], atol=1e-5)


@every_backend
def test_a_loaded_model_has_registered_functions(tmp_path):
    heads = pk.TaskHeads([pk.RegressionHead("a", activation=relu, tower=dense())])
    model = compiled(heads_alone(heads, width=1))
    np.testing.assert_array_equal(
        loaded(model, tmp_path).predict(ONES, verbose=0)["a"], model.predict(ONES, verbose=0)["a"]
    )


LINE = r"`@keras\.saving\.register_keras_serializable\(\)`"
FUNCTIONS = {
    "unknown": (unregistered, rf"write {LINE} above .*unregistered"),
    "of_keras": (leaky_relu, rf"name of Keras's 'leaky_relu', .*Write {LINE} above"),
    "lambda": (lambda x: x - 7.0, "no lambdas"),
}


@pytest.mark.parametrize(
    ("template", "argument", "place", "function", "message"),
    pairs(
        {name: make for name, make in TEMPLATES.items() if name != "expert_block"},
        {name: (name, place) for name, place in PLACES.items()},
        FUNCTIONS,
    ),
)
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_unregistered_functions_are_refused(template, argument, place, function, message):
    unfit = template(function)
    message = f"^{argument} must .*{message}.*Received: {argument}=<"
    check_refused(lambda: place(unfit), ValueError, message)


@pytest.mark.parametrize("argument", ["kernel_initializer", "kernel_regularizer"])
def test_an_unregistered_initializer_or_regularizer_of_a_template_is_refused(argument):
    template = layers.Dense(1, **{argument: unregistered})
    check_refused(lambda: pk.CGCBlock(["a"], template), ValueError, "'unregistered'")


@keras.saving.register_keras_serializable(package="test_custom_functions")
class OwnFunction(layers.Layer):
    """A layer that creates a layer with an unregistered function in its constructor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense(lambda x: leaky_relu(x))

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)


def test_functions_of_a_constructor_need_no_registration():
    block = pk.SharedBottomBlock(["a"], keras.Sequential([OwnFunction()]))
    assert numpy_of(block(ONES)["a"]) == -6.0


def own_loss(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred) * 3.0, axis=-1)


def test_an_unregistered_loss_and_metric_train_and_load_as_in_keras(tmp_path):
    heads = pk.TaskHeads([pk.RegressionHead("a", loss=own_loss, metrics=[own_loss])])
    model = compiled(heads_alone(heads, width=1), run_eagerly=True)
    x, y = np.zeros((2, 1)), np.ones(2)
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    assert (logs["loss"], logs["own_loss"]) == (3.0, 3.0)
    model.save(tmp_path / "model.keras")
    with pytest.raises(TypeError, match=r"loss must be known to Keras: .*'own_loss'"):
        keras.models.load_model(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"own_loss": own_loss}):
        again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, y, return_dict=True, verbose=0) == logs


def test_heads_of_branches_need_registered_functions():
    heads = pk.TaskHeads([pk.RegressionHead("a", loss=own_loss)])
    check_refused(
        lambda: heads(pk.HedgedBlock(heads, [2])({"a": ONES, "shared": ONES})),
        ValueError,
        rf"^heads\['a'\] must be .*{LINE}.*'own_loss'[^.]*\. Received: heads\['a'\]=<",
    )
