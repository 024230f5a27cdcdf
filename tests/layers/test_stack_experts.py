"""Experts as separate layers with `stack_experts=False`."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import built, numpy_of, once


@once
def test_every_expert_is_a_separate_layer():
    """One expert can have LoRA or its own regularizer."""
    cgc = built(pk.CGCBlock(["click", "buy"], [6, 4], 2, stack_experts=False))
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
