"""Experts as separate layers with `stack_experts=False`, compared with stacked experts."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, randomize

TASKS = ["click", "buy"]
BLOCKS = {
    "cgc": lambda **kwargs: pk.CGCBlock(TASKS, [6, 4], 2, **kwargs),
    "ple": lambda **kwargs: pk.PLEBlock(2, TASKS, [6, 4], 2, **kwargs),
    "mmoe": lambda **kwargs: pk.MMoEBlock(TASKS, [6, 4], 3, **kwargs),
}


def built(make, **kwargs):
    block = make(name="block", **kwargs)
    block(features(1, 3))
    randomize(block)
    return block


def levels(block):
    return block.layers if isinstance(block, pk.SequentialBlock) else [block]


@pytest.mark.parametrize("make", BLOCKS.values(), ids=list(BLOCKS))
def test_the_outputs_are_equal_to_those_of_stacked_experts(make):
    stacked, separate = built(make), built(make, stack_experts=False)
    transfer = pk.transfer_weights(stacked, separate)
    assert not transfer.new
    assert not transfer.left_out
    x = features(5, 3)
    assert_same(numpy_of(separate(x)), numpy_of(stacked(x)))


def test_every_expert_is_a_separate_layer():
    cgc = built(BLOCKS["cgc"], stack_experts=False)
    experts = [cgc.get_expert(name) for name in cgc.expert_names]
    assert len({id(expert) for expert in experts}) == 5
    assert {type(expert) for expert in experts} == {pk.ExpertBlock}
    kernels = [np.array(expert.weights[0]) for expert in experts]
    assert len({kernel.tobytes() for kernel in kernels}) == 5


def test_a_file_keeps_one_expert_frozen(tmp_path):
    inputs = keras.Input((3,))
    ple = BLOCKS["ple"](stack_experts=False, name="ple")
    model = keras.Model(inputs, ple(inputs))
    ple[0].get_expert("shared/expert_0").trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for level, block in enumerate(levels(loaded.get_layer("ple"))):
        assert not block.stack_experts
        frozen = [name for name in block.expert_names if not block.get_expert(name).trainable]
        assert frozen == (["shared/expert_0"] if level == 0 else [])
    x = features(4, 3)
    assert_same(numpy_of(loaded(x)), numpy_of(model(x)))


def test_one_expert_can_have_lora():
    cgc = built(BLOCKS["cgc"], stack_experts=False)
    before = len(cgc.trainable_weights)
    dense = cgc.get_expert("buy/expert_1")._dense[0]
    dense.enable_lora(2)
    assert len(cgc.trainable_weights) == before + 1  # two LoRA kernels replace one kernel
    assert not cgc.get_expert("buy/expert_0")._dense[0].lora_enabled


def test_one_expert_can_be_regularized_separately():
    cgc = built(BLOCKS["cgc"], stack_experts=False)
    dense = cgc.get_expert("click/expert_0")._dense[0]
    dense.kernel_regularizer = keras.regularizers.L2(1.0)
    dense.kernel.regularizer = dense.kernel_regularizer
    expected = np.square(np.array(dense.kernel)).sum()
    assert float(sum(cgc.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_stacked", [True, False])
def test_the_config_contains_stack_experts_and_its_default_is_true(is_stacked):
    config = BLOCKS["cgc"](stack_experts=is_stacked).get_config()
    assert pk.CGCBlock.from_config(config).stack_experts is is_stacked
    del config["stack_experts"]
    assert pk.CGCBlock.from_config(config).stack_experts


def test_experts_of_other_classes_are_always_layers():
    cgc = pk.CGCBlock(TASKS, keras.layers.Dense(4))
    cgc(features(1, 3))
    assert isinstance(cgc.get_expert("buy/expert_0"), keras.layers.Dense)
