"""Configs of every public layer, and layers that are created from them."""

import inspect
import itertools
import json

import keras
import pytest

import ple_keras as pk
from tests._keras.layer_cases import CASES, every_layer
from tests.helpers import built, once
from tests.pairs import fewer, pairs

pytestmark = once

# Values of these arguments are serialized.
OF_KERAS = (
    *("expert_block", "gate_block", "bottom_block", "feature_block", "features", "tower"),
    *("layers", "branches", "heads", "num_layers", "num_experts"),
    *(
        f"{weight}_{kind}"
        for weight in ("kernel", "bias")
        for kind in ("initializer", "regularizer")
    ),
)


@every_layer
def test_the_config_contains_every_argument_with_the_given_value(case):
    layer = case.make()
    config = layer.get_config()
    arguments = set(inspect.signature(type(layer).__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config)
    if isinstance(case.cls, type):
        given = {key: value for key, value in case.arguments.items() if key not in OF_KERAS}
        assert {key: config[key] for key in given} == given


# Other tests save and clone these, since they need a second input or labels.
IN_NO_CASE = {"gate_reads", "loss", "metrics", "loss_weighting"}


CLASSES = {case.cls.__name__: case.cls for case in CASES.values() if isinstance(case.cls, type)}


@pytest.mark.parametrize("cls", fewer(CLASSES))
def test_every_argument_of_a_layer_is_given_in_a_case(cls):
    given = {key for case in CASES.values() if case.cls is cls for key in case.arguments}
    assert set(inspect.signature(cls).parameters) - {"kwargs"} - IN_NO_CASE <= given


FOLLOWED = {"activation", "balance_regularizer", "class_weight", "loss", "loss_weight"}
FOLLOWED |= {"missing_label", "pos_weight", "reduction"}


@every_layer
def test_an_argument_that_a_layer_would_not_follow_cannot_be_assigned(case):
    arguments = inspect.signature(type(case.make()).__init__).parameters.keys() - FOLLOWED
    layer, with_weights = case.make(), case.make()
    with_weights.build(case.shape(None))
    for each, name in itertools.product((layer, with_weights), arguments):
        if hasattr(each, name) and (type(each), name) != (pk.Gate, "dropout"):
            message = f"^{name} can be set only|property '{name}' of .* has no setter"
            with pytest.raises(AttributeError, match=message):
                setattr(each, name, 7)


def test_the_constructor_of_a_subclass_can_assign_an_argument():
    class Mine(pk.ExpertBlock):
        def __init__(self, units):
            super().__init__(units)
            self.dropout = 0.5

    layer = built(Mine(4))
    assert layer.get_config()["dropout"] == 0.5
    with pytest.raises(AttributeError, match=r"^dropout can be .*Received: dropout=0\.1$"):
        layer.dropout = 0.1


def through_json(layer):
    return json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))


@pytest.mark.parametrize(("is_built", "case"), pairs({"unbuilt": False, "built": True}, CASES))
def test_a_layer_is_the_same_after_serialization_to_json(case, is_built):
    layer = case.make(name="mine", trainable=False, dtype="mixed_bfloat16")
    if is_built:
        layer.build(case.shape(None))
    serialized = through_json(layer)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert through_json(copy) == serialized
    assert (type(copy), copy.built) == (type(layer), is_built)
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]
