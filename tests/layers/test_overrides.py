"""Subclasses of CGCBlock that override their experts or gates get the inputs of the block."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of

TASKS = ["click", "buy"]


class HalvedExperts(pk.CGCBlock):
    def expert_outputs(self, inputs, training=None):
        return super().expert_outputs(inputs * 0.5, training=training)


class UniformGates(pk.CGCBlock):
    def gate_weights(self, inputs, training=None):
        counts = {gate: len(experts) for gate, experts in self.gate_experts.items()}
        rows = keras.ops.shape(inputs)[0]
        return {gate: keras.ops.ones((rows, n)) / n for gate, n in counts.items()}


def built(cls, seed=0):
    keras.utils.set_random_seed(seed)
    block = cls(TASKS, [4], name="cgc")
    block(features(1, 3))
    return block


@pytest.mark.parametrize("rows", [5, 600])
def test_overridden_experts_get_the_tensor_that_the_block_gets(rows):
    x = features(rows, 3)
    block, plain = built(HalvedExperts), built(pk.CGCBlock)
    experts, weights = numpy_of(plain.expert_outputs(0.5 * x)), numpy_of(plain.gate_weights(x))
    expected = {
        gate: sum(weights[gate][:, [i]] * experts[name] for i, name in enumerate(names))
        for gate, names in plain.gate_experts.items()
    }
    assert_same(numpy_of(block(x)), expected)


def test_overridden_gates_get_the_tensor_that_the_block_gets():
    x = features(5, 3)
    block = built(UniformGates)
    experts = numpy_of(block.expert_outputs(x))
    expected = (experts["click/expert_0"] + experts["shared/expert_0"]) / 2
    np.testing.assert_allclose(numpy_of(block(x))["click"], expected, atol=1e-6)


def test_overridden_experts_work_in_a_functional_model():
    inputs = keras.Input((3,))
    block = HalvedExperts(TASKS, [4])
    model = keras.Model(inputs, block(inputs))
    x = features(5, 3)
    assert_same(model.predict(x, verbose=0), numpy_of(block(x)))


def test_a_method_replaced_on_the_block_itself_is_used():
    x = features(5, 3)
    block = built(pk.CGCBlock)
    outputs = {name: 0 * value for name, value in block.expert_outputs(x).items()}
    block.expert_outputs = lambda inputs, training=None: outputs
    assert not np.any(numpy_of(block(x))["buy"])


@keras.saving.register_keras_serializable("test_overrides")
class EqualByWidth(keras.layers.Layer):
    """A layer that defines `__eq__` and therefore has no hash."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.dense = keras.layers.Dense(width)

    def __eq__(self, other):
        return type(self) is type(other) and self.width == other.width

    __hash__ = None if keras.backend.backend() != "torch" else keras.layers.Layer.__hash__

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_layers_that_are_equal_to_each_other_are_told_apart(tmp_path):
    inputs = keras.Input((3,))
    block = pk.CGCBlock(TASKS, EqualByWidth(), name="cgc")
    model = keras.Model(inputs, block(inputs))
    block.get_expert("buy/expert_0").trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").get_layer("cgc")
    frozen = [name for name in loaded.expert_names if not loaded.get_expert(name).trainable]
    assert frozen == ["buy/expert_0"]
