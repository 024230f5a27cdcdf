"""Configs of every public layer, and layers that are created from them."""

import inspect
import json

import keras
import pytest

import ple_keras as pk
from tests._keras.layer_cases import every_layer


@every_layer
@pytest.mark.parametrize("is_built", [False, True], ids=["unbuilt", "built"])
def test_from_config_creates_an_equal_layer(case, is_built):
    layer = case.make(name="mine", trainable=False, dtype="mixed_bfloat16")
    if is_built:
        layer.build(case.shape(None))
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert type(copy) is type(layer)
    assert copy.get_config() == config == layer.get_config()
    assert (copy.name, copy.trainable, copy.dtype_policy.name) == ("mine", False, "mixed_bfloat16")


@every_layer
def test_the_config_contains_every_constructor_argument(case):
    layer = case.make()
    arguments = set(inspect.signature(type(layer).__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(layer.get_config())


GIVEN = {
    "expert": (
        pk.ExpertBlock,
        {
            "units": [4, 3],
            "activation": "gelu",
            "dropout": 0.25,
            "normalization": "batch",
            "use_bias": False,
        },
    ),
    "gate": (
        pk.Gate,
        {
            "num_experts": 3,
            "softmax_temperature": 0.5,
            "dropout": 0.25,
            "balance_regularizer": 0.5,
            "track_weights": True,
        },
    ),
    "cgc": (
        pk.CGCBlock,
        {
            "outputs": ["b", "a"],
            "expert_block": 3,
            "num_task_experts": {"b": 2, "a": 1},
            "num_shared_experts": 3,
            "add_shared_gate": False,
            "gate_softmax_temperature": 0.5,
            "enable_gate_weights_metrics": True,
            "gate_kwargs": {"dropout": 0.25, "balance_regularizer": 0.5},
            "isolate_task_experts": True,
            "gate_reads": "both",
            "stack_experts": False,
        },
    ),
    "shared_bottom": (pk.SharedBottomBlock, {"outputs": ["b", "a"], "bottom_block": 3}),
    "head": (
        pk.Head,
        {
            "task": "a",
            "units": 2,
            "activation": "tanh",
            "loss": "mse",
            "metrics": ["mae", "mse"],
            "extra_metrics": ["mape"],
            "loss_weight": 0.5,
        },
    ),
    "binary_head": (pk.BinaryHead, {"task": "a", "metrics": ["accuracy"], "loss_weight": 0.5}),
    "regression_head": (pk.RegressionHead, {"task": "a", "units": 2, "activation": "softplus"}),
    "multiclass_head": (pk.MulticlassHead, {"task": "a", "num_classes": 5, "metrics": []}),
    "multiclass_head_weighted": (
        pk.MulticlassHead,
        {"task": "a", "num_classes": 2, "class_weights": [0.5, 2.0]},
    ),
}


@pytest.mark.parametrize(("cls", "arguments"), list(GIVEN.values()), ids=list(GIVEN))
def test_the_config_contains_the_given_values(cls, arguments):
    config = cls(**arguments).get_config()
    templates = ("expert_block", "bottom_block")
    expected = {key: value for key, value in arguments.items() if key not in templates}
    assert {key: config[key] for key in expected} == expected


def through_json(layer):
    return json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))


@every_layer
@pytest.mark.parametrize("is_built", [False, True], ids=["unbuilt", "built"])
def test_a_layer_is_the_same_after_serialization_to_json(case, is_built):
    layer = case.make()
    if is_built:
        layer.build(case.shape(None))
    serialized = through_json(layer)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert through_json(copy) == serialized
    assert copy.built == is_built
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]
