"""`return_gate_weights`: gate weights as outputs, even of a second model of the same layers."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, assert_same, features, numpy_of, once, plain
from tests.models import TASKS, click_and_buy_heads, clicks_and_buys, cloned, compiled, loaded
from tests.templates import CopiedExpert

X = features(6, 4)


@pytest.mark.parametrize("expert", [pk.ExpertBlock([3]), CopiedExpert([3])])
def test_the_weights_are_those_that_mix_the_experts_after_gate_dropout(expert):
    block = pk.CGCBlock(TASKS, expert, 3, gate_kwargs={"dropout": 0.5})
    outputs, weights = block(X, training=True, return_gate_weights=True)
    outputs, weights, experts = map(numpy_of, (outputs, weights, block.expert_outputs(X)))
    assert min(of_gate.min() for of_gate in weights.values()) == 0  # a dropped expert
    for gate, names in block.gate_experts.items():
        mixed = sum(weights[gate][:, [i]] * experts[name] for i, name in enumerate(names))
        np.testing.assert_allclose(outputs[gate], mixed, atol=1e-5)


@pytest.mark.parametrize(("policy", "leading"), [("float32", (2, 3)), ("mixed_bfloat16", (2,))])
def test_symbolic_weights_have_the_shapes_and_dtype_of_eager_ones(policy, leading):
    block = pk.PLEBlock(2, TASKS, [3], {"click": 2, "buy": 1}, dtype=policy, name="ple")
    symbolic = block(keras.Input((*leading[1:], 4)), return_gate_weights=True)
    eager = block(features(*leading, 4), return_gate_weights=True)
    keras.tree.assert_same_structure(symbolic, eager)
    for a, b in zip(keras.tree.flatten(symbolic), keras.tree.flatten(eager)):
        assert tuple(a.shape[1:]) == tuple(b.shape[1:])
        assert a.dtype == keras.backend.standardize_dtype(b.dtype) == policy.split("_")[-1]


def test_levels_and_gates_are_sorted_so_that_files_have_one_order_on_every_backend():
    block = pk.PLEBlock(11, ["time", "buy"], [3], name="ple")
    _, weights = block(X, return_gate_weights=True)
    assert list(weights) == sorted(weights)
    assert all(list(of_level) == sorted(of_level) for of_level in weights.values())


@pytest.mark.parametrize("stack_experts", [True, False])
def test_what_files_cannot_store_is_refused_as_an_output_of_a_model(stack_experts):
    block = pk.CGCBlock(TASKS, [3], stack_experts=stack_experts)
    block(X)
    for method in (block.expert_outputs, block.gate_weights):
        message = r"not symbolic.*Received: built=True, inputs="
        with pytest.raises(ValueError, match=message):
            method(keras.Input((4,)))


# A second model of the same layers.


def serving_model(model):
    """Return a model of the layers of another that also returns all gate weights."""
    ple, heads = model.get_layer("ple"), model.get_layer("heads")
    x, device = ple.input
    features, by_level = ple(x, gate_context=device, return_gate_weights=True)
    return keras.Model(model.input, {**heads(features), **plain({"gate": by_level})})


@pytest.fixture(scope="module")
def trained():
    heads = click_and_buy_heads()
    inputs = {"x": keras.Input((4,), name="x"), "device": keras.Input((2,), name="device")}
    ple = pk.PLEBlock(2, heads, [3], gate_reads="both", name="ple")
    hidden = keras.layers.Dense(4)(inputs["x"])
    model = pk.MultiTaskModel(inputs, heads(ple(hidden, gate_context=inputs["device"])))
    compiled(model, run_eagerly=keras.backend.backend() == "tensorflow", jit_compile=QUICK_JIT)
    return train(model)


def data():
    x, y = clicks_and_buys(6)
    return {"x": x, "device": features(6, 2)}, y


def train(model):
    model.train_on_batch(*data())
    return model


def served(model):
    return numpy_of(model(data()[0]))


def check_serving(serving, model):
    """Assert that a model returns the predictions and gate weights of another."""
    inputs, outputs = data()[0], served(serving)
    predictions = {task: outputs.pop(task) for task in TASKS}
    assert_same(predictions, served(model))
    by_name = plain({"gate": pk.gate_weights(model, inputs)})
    assert {"gate/ple/0/click", "gate/ple/0/shared", "gate/ple/1/buy"} < set(outputs)
    assert_same(outputs, by_name)


def test_a_second_model_of_a_trained_model_s_layers_also_returns_the_weights(trained, tmp_path):
    config = trained.get_config()
    serving = serving_model(trained)
    check_serving(serving, trained)
    assert trained.get_config() == config
    copy = train(loaded(trained, tmp_path))
    assert_same(served(copy), served(train(trained)))
    check_serving(serving, trained)  # the layers are the same


@pytest.mark.parametrize("copied", [loaded, pytest.param(cloned, marks=once)])
def test_it_can_be_copied_and_made_of_the_layers_of_a_copy(trained, copied, tmp_path):
    copy = copied(trained, tmp_path)
    check_serving(serving_model(copy), copy)
    serving = serving_model(trained)
    copy = copied(serving, tmp_path)
    copy.set_weights(serving.get_weights())
    check_serving(copy, trained)
