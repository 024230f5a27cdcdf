"""Copies have the custom functions of their templates, even those named as functions of Keras."""

import os
import types
import warnings
from unittest import mock

import hypothesis
import keras
import numpy as np
import pytest
from keras import layers, ops

import ple_keras as pk
from tests._keras import random_models
from tests.helpers import assert_same, features, numpy_of, once
from tests.models import compiled, heads_alone
from tests.refusals import check_refused, table

ONES = np.ones((1, 1), "float32")


def leaky_relu(x):
    return x - 7.0


def relu(x):
    return x + 3.0


def ones(shape, dtype=None):
    return ops.full(shape, 5.0, dtype)


def l2(weights):
    return 2.0 * ops.sum(weights)


def non_neg(weights):
    return ops.minimum(weights, 0.5)


def mean_squared_error(y_true, y_pred):
    return ops.full((2,), 4.0)


def dense(activation=leaky_relu, **kwargs):
    return layers.Dense(1, activation, kernel_initializer="ones", **kwargs)


def functional():
    inputs = keras.Input((1,))
    return keras.Model(inputs, dense()(inputs))


def sequential_of_two():
    """The same name stands for a function of Keras and for a custom one."""
    return keras.Sequential([dense("leaky_relu"), dense(leaky_relu)])


@keras.saving.register_keras_serializable(package="test_custom_functions")
class Wrapped(layers.Layer):
    """A layer with functions in a list, a dict, an inner layer and a private attribute."""

    def __init__(self, functions, by_key, inner, last, **kwargs):
        super().__init__(**kwargs)
        self.functions, self.by_key, self.inner, self._last = functions, by_key, inner, last

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs):
        for function in [*self.functions, *self.by_key.values(), self.inner, self._last]:
            inputs = function(inputs)
        return inputs

    def get_config(self):
        own = {"functions": self.functions, "by_key": self.by_key}
        own.update(inner=self.inner, last=self._last)
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))


def wrapped():
    return Wrapped([leaky_relu, keras.activations.linear], {"x": relu}, dense(), leaky_relu)


def level():
    block = pk.CGCBlock(["a"], dense(), 1, 0, add_shared_gate=False, gate_block=dense())
    return pk.SequentialBlock([dense(relu, name="first"), block, OfTask(name="last")])


@keras.saving.register_keras_serializable(package="test_custom_functions")
class OfTask(layers.Layer):
    """The output of the task "a"."""

    def call(self, inputs):
        return inputs["a"]


TEMPLATES = {
    "expert_block": (lambda: pk.ExpertBlock([1], leaky_relu, kernel_initializer="ones"), -6.0),
    "normalized": (lambda: pk.ExpertBlock([1], relu, normalization="layer"), 3.0),
    "dense": (dense, -6.0),
    "sequential": (lambda: keras.Sequential([dense(), layers.Activation(relu)]), -3.0),
    "sequential_of_two": (sequential_of_two, -6.0),
    "built_sequential": (lambda: keras.Sequential([keras.Input((1,)), dense()]), -6.0),
    "functional": (functional, -6.0),
    "nested": (lambda: keras.Sequential([keras.Sequential([dense()]), functional()]), -13.0),
    "wrapper": (lambda: layers.SpectralNormalization(dense()), -6.0),
    "sequential_block": (lambda: pk.SequentialBlock([dense(), dense(relu, name="b")]), -3.0),
    "level": (level, -3.0),
    "shared_bottom": (
        lambda: pk.SequentialBlock([pk.SharedBottomBlock(["a"], dense()), OfTask()]),
        -6.0,
    ),
    "lists_and_dicts": (wrapped, -17.0),
}
PLACES = {
    "expert": lambda block: pk.CGCBlock(["a"], block, 1, 0, add_shared_gate=False)(ONES)["a"],
    "ple": lambda block: pk.PLEBlock(1, ["a"], block, 1, 0)(ONES)["a"],
    "bottom": lambda block: pk.SharedBottomBlock(["a"], block)(ONES)["a"],
    "features": lambda block: pk.StreamFeatures(["a"], block)(ONES)["a"],
    "gate_block": lambda block: inner(pk.Gate(2, gate_block=block), "_block"),
    "tower": lambda block: inner(pk.RegressionHead("a", tower=block), "_tower"),
}


def inner(layer, attribute):
    layer(ONES)
    return getattr(layer, attribute)(ONES)


@once
@pytest.mark.filterwarnings("ignore:Files will have")
@pytest.mark.parametrize(("make", "expected"), table(TEMPLATES))
@pytest.mark.parametrize("place", list(PLACES))
def test_a_copy_has_the_activations_of_its_template(make, expected, place):
    template = make()
    np.testing.assert_allclose(numpy_of(PLACES[place](template)), [[expected]], atol=1e-5)


def unregistered(prefix):
    """Return the custom functions of random models, with a prefix before their names."""
    return {
        name: types.FunctionType(function.__code__, function.__globals__, prefix + name)
        for name, function in random_models.CUSTOM.items()
    }


@once
@pytest.mark.filterwarnings("ignore:Files will have")
@hypothesis.settings(
    max_examples=int(os.environ.get("ROUND_TRIPS", 8)),
    derandomize="ROUND_TRIPS" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(recipe=random_models.bodies("body", ["click", "buy"], 2))
def test_outputs_do_not_depend_on_the_names_of_functions(recipe):
    outputs = []
    for prefix in ("", "a_name_that_keras_does_not_know_"):
        with mock.patch.dict(random_models.CUSTOM, unregistered(prefix)):
            keras.utils.set_random_seed(0)
            block = recipe()
        outputs.append(numpy_of(block(features(random_models.ROWS, random_models.WIDTH))))
    assert_same(*outputs)


def test_a_copy_has_the_initializer_regularizer_and_constraint_of_its_template():
    template = layers.Dense(
        1,
        kernel_initializer=ones,
        kernel_regularizer=l2,
        bias_regularizer=l2,
        kernel_constraint=non_neg,
        activity_regularizer=l2,
    )
    block = pk.SharedBottomBlock(["a"], keras.Sequential([template]))
    block(ONES)
    copy = block._bottom.layers[0]
    assert numpy_of(copy.kernel) == 5.0
    assert (copy.kernel_regularizer, copy.bias_regularizer) == (l2, l2)
    assert (copy.kernel_constraint, copy.activity_regularizer) == (non_neg, l2)


def test_stacked_experts_have_the_functions_of_their_template():
    template = pk.ExpertBlock(
        [1], kernel_initializer=ones, bias_initializer=ones, kernel_regularizer=l2
    )
    block = pk.CGCBlock(["a"], template, 2, 1)
    np.testing.assert_allclose(numpy_of(block(ONES)["a"]), [[10.0]], rtol=1e-6)
    assert float(numpy_of(sum(block.losses))) == 2.0 * 3 * 5.0


def test_an_initializer_in_the_config_of_an_initializer_is_copied():
    template = layers.Dense(1, kernel_initializer=OfFunction(ones))
    block = pk.CGCBlock(["a"], pk.ExpertBlock([1], kernel_initializer=OfFunction(ones)), 1, 0)
    block(ONES)
    assert numpy_of(pk.SharedBottomBlock(["a"], template)(ONES)["a"]) == 5.0
    (kernel,) = (weight for weight in block.weights if weight.name == "kernel_0")
    np.testing.assert_array_equal(numpy_of(kernel), np.full((1, 1, 1), 5.0))


@keras.saving.register_keras_serializable(package="test_custom_functions")
class OfFunction(keras.Initializer):
    """An initializer from a function."""

    def __init__(self, function):
        self.function = keras.activations.get(function)

    def __call__(self, shape, dtype=None):
        return self.function(shape, dtype)

    def get_config(self):
        return {"function": keras.saving.serialize_keras_object(self.function)}


@pytest.mark.filterwarnings("ignore:Files will have")
@pytest.mark.parametrize(
    "metric", [mean_squared_error, keras.metrics.MeanMetricWrapper(mean_squared_error, "given")]
)
def test_a_metric_of_a_head_has_the_function_of_its_template(metric):
    heads = pk.TaskHeads([pk.RegressionHead("a", metrics=[metric])])
    model = compiled(heads_alone(heads, width=1), run_eagerly=True)
    logs = model.evaluate(np.zeros((2, 1)), np.zeros(2), return_dict=True, verbose=0)
    assert logs["given" if isinstance(metric, keras.Metric) else "mean_squared_error"] == 4.0


@keras.saving.register_keras_serializable(package="test_custom_functions")
class LossOf(layers.Layer):
    """A layer with a loss and a metric."""

    def __init__(self, loss, metric, **kwargs):
        super().__init__(**kwargs)
        self.loss, self.metric = loss, metric

    def get_config(self):
        own = {"loss": self.loss, "metric": self.metric}
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))


def test_a_copy_has_the_losses_and_metrics_of_its_template():
    loss_class = type(keras.losses.MeanSquaredError()).__bases__[0]
    template = LossOf(
        loss_class(mean_squared_error), keras.metrics.MeanMetricWrapper(mean_squared_error)
    )
    copy = pk.SharedBottomBlock(["a"], template)._template.copy("copy")
    assert (copy.loss.fn, copy.metric._fn) == (mean_squared_error, mean_squared_error)
    assert copy.metric is not template.metric


def test_a_template_whose_copy_would_lose_a_function_is_refused():
    template = layers.Bidirectional(layers.LSTM(1))
    template.forward_layer.cell.activation = leaky_relu
    check_refused(
        lambda: pk.CGCBlock(["a"], template),
        ValueError,
        r"^expert_block must .*the copy of <LSTM name=forward_lstm.*> would lose its functions "
        r"\['leaky_relu'\]\. Give it get_config.*Received: expert_block=<Bidirectional",
    )


@keras.saving.register_keras_serializable(package="test_custom_functions")
class Hidden(layers.Layer):
    """A layer whose attributes have other names than its config."""

    def __init__(self, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.dense = dense(activation)
        self.double = dense(lambda x: 2.0 * x)  # the copy has another function object

    def get_config(self):
        activation = keras.activations.serialize(self.dense.activation)
        return {**super().get_config(), "activation": activation}


def test_functions_of_inner_layers_are_compared():
    check_refused(
        lambda: pk.SharedBottomBlock(["a"], keras.Sequential([Hidden(leaky_relu)])),
        ValueError,
        r"bottom_block must .*the copy of <Dense name=dense.*> would lose its functions "
        r"\['leaky_relu'\]",
    )
    _, caught = warnings_of(lambda: pk.SharedBottomBlock(["a"], Hidden("leaky_relu")))
    assert caught == []


MESSAGE = (
    r"^Files will have Keras's functions in place of \['{0}'\], which have the same names\. Rename "
    r"them, or register them with keras\.saving\.register_keras_serializable\. Received: {1}="
)
WARNINGS = {
    "expert": (lambda: pk.ExpertBlock(2, leaky_relu), "leaky_relu", "activation"),
    "head": (lambda: pk.Head("a", activation=relu), "relu", "activation"),
    "loss": (
        lambda: pk.RegressionHead("a", loss=mean_squared_error),
        "mean_squared_error",
        "loss",
    ),
    "loss_inside": (
        lambda: pk.BinaryHead("a", loss=mean_squared_error, pos_weight=2.0),
        "mean_squared_error",
        "loss",
    ),
    "metric": (
        lambda: pk.BinaryHead("a", metrics=["mae", mean_squared_error]),
        "mean_squared_error",
        "metrics",
    ),
    "extra_metric": (
        lambda: pk.BinaryHead(
            "a", extra_metrics=[keras.metrics.MeanMetricWrapper(mean_squared_error)]
        ),
        "mean_squared_error",
        "extra_metrics",
    ),
}


def warnings_of(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    return result, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("make", "name", "argument"), table(WARNINGS))
def test_a_layer_warns_once_that_files_replace_a_function(make, name, argument):
    with pytest.warns(UserWarning, match=MESSAGE.format(name, argument)) as caught:
        layer = make()
    assert [warning.filename for warning in caught] == [__file__]
    assert warnings_of(layer.get_config)[1] == []


@keras.saving.register_keras_serializable(package="test_custom_functions")
def selu(x):
    return x


def custom(x):
    return x


@pytest.mark.parametrize(
    "activation", [None, "relu", keras.activations.relu, selu, custom, lambda x: x]
)
def test_a_layer_does_not_warn_of_other_functions(activation):
    assert warnings_of(lambda: pk.ExpertBlock(2, activation))[1] == []


@once
def test_copies_do_not_warn():
    def build():
        block = pk.PLEBlock(2, ["a", "b"], template, gate_block=template)
        block(features(2, 3))
        return block

    template, _ = warnings_of(lambda: pk.ExpertBlock([2], leaky_relu))
    block, caught = warnings_of(build)
    assert caught == []
    clone, caught = warnings_of(lambda: type(block).from_config(block.get_config()))
    assert caught == []
    # Keras itself resolves the name in a config. This is what the warning says.
    assert clone[0]._expert_templates.layer.activation is keras.activations.leaky_relu
