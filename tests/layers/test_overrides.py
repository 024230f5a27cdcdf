"""Subclasses of CGCBlock that override `call`, experts that define `__eq__`, and summaries."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import assert_same, built, features, numpy_of, once
from tests.models import chain, loaded

TASKS = ["click", "buy"]


class HalvedInputs(pk.CGCBlock):
    def call(self, inputs, training=None, *, gate_context=None):
        return super().call(0.5 * inputs, training=training)


@pytest.mark.parametrize("rows", [5, 600])
def test_an_overridden_call_works_in_a_functional_model(rows):
    block, plain = HalvedInputs(TASKS, [4]), built(pk.CGCBlock(TASKS, [4]), 3)
    model, x = chain(block), features(rows, 3)
    plain.set_weights(block.get_weights())
    assert_same(model.predict(x, verbose=0), numpy_of(plain(0.5 * x)))


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
    block = pk.CGCBlock(TASKS, EqualByWidth(), name="cgc")
    model = chain(block)
    block.get_expert("buy/expert_0").trainable = False
    again = loaded(model, tmp_path).get_layer("cgc")
    frozen = [name for name in again.expert_names if not again.get_expert(name).trainable]
    assert frozen == ["buy/expert_0"]


@once
def test_a_summary_shows_the_levels_experts_and_gates(capsys):
    levels = [
        pk.CGCBlock(TASKS, [4], name="stacked"),
        pk.CGCBlock(TASKS, [4], add_shared_gate=False, stack_experts=False, name="copied"),
    ]
    assert [len(level.layers) for level in levels] == [0, 0]
    model = chain(pk.SequentialBlock(levels, name="ple"))
    model.summary(expand_nested=True)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("└")[1].split()[0] for line in lines if "└ " in line]
    gates = ["gate-click", "gate-buy"]
    experts = ["expert-click-0", "expert-buy-0", "expert-shared-0"]
    assert rows == ["stacked", "experts", *gates, "gate-shared", "copied", *experts, *gates]
