"""Experts are frozen in the plain Keras way, one by one or a level at a time."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, features, numpy_of


@keras.saving.register_keras_serializable()
class FreezableExpert(pk.ExpertBlock):
    """A layer for each expert, in place of a slice of stacked kernels."""


def trained(freeze):
    """The level of a model after a step, and how far each of its experts went."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    cgc = pk.CGCBlock(heads, FreezableExpert([4]), num_task_experts=2, add_shared_gate=False)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, heads(cgc(inputs)))
    freeze(cgc)
    before = {expert: weights_of(cgc, expert) for expert in cgc.expert_names}
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    model.compile(**heads.compile_kwargs(optimizer=optimizer, jit_compile=QUICK_JIT))
    model.train_on_batch(features(8, 3), {"click": np.ones(8), "time": np.ones(8)})
    return {
        expert: max(np.abs(w - v).max() for w, v in zip(before[expert], weights_of(cgc, expert)))
        for expert in cgc.expert_names
    }


def weights_of(cgc, expert):
    return [numpy_of(weight) for weight in cgc.get_expert(expert).weights]


def test_frozen_experts_stay_where_they_are():
    def freeze(cgc):
        for expert in ("click/expert_1", "shared/expert_0"):
            cgc.get_expert(expert).trainable = False

    moved = trained(freeze)
    assert {expert for expert, by in moved.items() if by == 0} == {
        "click/expert_1",
        "shared/expert_0",
    }


def test_a_frozen_level_stays_whole():
    assert set(trained(lambda cgc: setattr(cgc, "trainable", False)).values()) == {0}


def test_experts_that_are_slices_can_not_be_had():
    cgc = pk.CGCBlock(["click", "buy"], [4])
    with pytest.raises(ValueError, match=r"of a built block: .* Received: .* built=False"):
        cgc.get_expert("click/expert_0")
    cgc.build((None, 3))
    with pytest.raises(ValueError, match=r"name must be an expert's.*name='click/expert_1'"):
        cgc.get_expert("click/expert_1")
    with pytest.raises(ValueError, match=r"expert_block must be of a subclass of ExpertBlock"):
        cgc.get_expert("click/expert_0")
