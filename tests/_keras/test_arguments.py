"""Constructor arguments can't be changed: neither the model nor its file would be right."""

import copy
import inspect

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests._keras.layer_cases import every_layer
from tests.helpers import features, numpy_of
from tests.templates import ScaledExpert

KERAS_ARGUMENTS = {"self", "kwargs", "name", "dtype", "trainable"}


@every_layer
def test_no_argument_can_be_assigned_again(case):
    layer = case.make()
    config = repr(layer.get_config())
    for argument in set(inspect.signature(type(layer).__init__).parameters) - KERAS_ARGUMENTS:
        if hasattr(layer, argument):
            with pytest.raises(AttributeError):
                setattr(layer, argument, None)
    assert repr(layer.get_config()) == config


def test_the_message_says_how_to_get_another_argument():
    head = pk.BinaryHead("a")
    message = (
        r"^loss_weight of 'a_head' can't be changed\. Create a new layer, `BinaryHead\(\.\.\.\)`, "
        r".*`transfer_weights`\. Received: loss_weight=2\.0"
    )
    for layer in (head, copy.deepcopy(head)):
        with pytest.raises(AttributeError, match=message):
            layer.loss_weight = 2.0


def test_arguments_of_a_subclass_can_be_assigned():
    expert = ScaledExpert(4, scale=1.0)
    x = features(2, 3)
    output = numpy_of(expert(x))
    expert.scale = 2.0
    np.testing.assert_allclose(numpy_of(expert(x)), 2 * output, rtol=1e-6)
    with pytest.raises(AttributeError, match=r"^units of "):
        expert.units = (2,)


def test_a_template_is_copied_when_it_is_given():
    template = keras.layers.Dense(4)
    block = pk.SharedBottomBlock(["a"], template)
    config = block.get_config()
    template.units = 5
    assert block.get_config() == config
    assert block(features(2, 3))["a"].shape == (2, 4)
