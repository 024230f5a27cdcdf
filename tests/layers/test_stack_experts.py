"""Experts as separate layers with `stack_experts=False`, compared with stacked experts."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once, randomize

TASKS = ["click", "buy"]


def ple_of(**kwargs):
    ple = pk.PLEBlock(2, TASKS, [6, 4], 2, name="ple", **kwargs)
    ple(features(1, 3))
    randomize(ple)
    return ple


def test_the_outputs_are_equal_to_those_of_stacked_experts():
    stacked, separate = ple_of(), ple_of(stack_experts=False)
    transfer = pk.transfer_weights(stacked, separate)
    assert not transfer.new
    assert not transfer.left_out
    x = features(5, 3)
    assert_same(numpy_of(separate(x)), numpy_of(stacked(x)))


@once
def test_every_expert_is_a_separate_layer():
    """One expert can have LoRA or its own regularizer."""
    cgc = ple_of(stack_experts=False)[0]
    experts = [cgc.get_expert(name) for name in cgc.expert_names]
    assert {type(expert) for expert in experts} == {pk.ExpertBlock}
    assert len({numpy_of(expert.weights[0]).tobytes() for expert in experts}) == 5
    dense = experts[0]._dense[0]
    dense.kernel.regularizer = keras.regularizers.L2(1.0)
    expected = np.square(numpy_of(dense.kernel)).sum()
    assert float(sum(cgc.losses)) == pytest.approx(expected, rel=1e-5)
    before = len(cgc.trainable_weights)
    dense.enable_lora(2)
    assert len(cgc.trainable_weights) == before + 1  # two LoRA kernels replace one kernel
