"""Freezing of single experts and of whole levels with `trainable`, as in Keras."""

import re

import keras
import pytest

import ple_keras as pk
from tests.helpers import once
from tests.models import cloned, compiled, loaded

pytestmark = once


def test_get_expert_refuses_unbuilt_blocks_unknown_names_and_stacked_experts():
    cgc = pk.CGCBlock(["click", "buy"], [4])
    with pytest.raises(ValueError, match=r"of a built block .*Received: .*built=False"):
        cgc.get_expert("click/expert_0")
    cgc.build((None, 3))
    with pytest.raises(ValueError, match=r"name must be one of .*.*name='click/expert_1'"):
        cgc.get_expert("click/expert_1")
    with pytest.raises(ValueError, match=r"a built block with stack_experts=False"):
        cgc.get_expert("click/expert_0")


@keras.saving.register_keras_serializable(package="test_freezing")
class TwoLayers(keras.layers.Layer):
    """A custom layer whose config does not contain its frozen layers."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.second = keras.layers.Dense(units), keras.layers.Dense(units)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((*input_shape[:-1], self.units))

    def call(self, inputs):
        return self.second(self.first(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="test_freezing")
class WithoutKwargs(pk.SequentialBlock):
    """A subclass whose constructor has no `**kwargs`."""

    def __init__(self, layers, name=None, trainable=True, dtype=None):
        super().__init__(layers, name=name, trainable=trainable, dtype=dtype)


def model_of_all_kinds(trainable=True):
    """Return a model of experts, gate blocks, towers, heads and a custom layer."""
    click = pk.BinaryHead("click", tower=keras.Sequential([TwoLayers(3)]))
    time = pk.RegressionHead("time", tower=pk.ExpertBlock([3, 2], normalization="batch"))
    heads = pk.TaskHeads([click, time], name="heads")
    ple = pk.PLEBlock(2, heads, TwoLayers(4), 2, gate_block=[3], name="ple", trainable=trainable)
    bottom = pk.SharedBottomBlock(["click", "time"], TwoLayers(4), name="bottom")
    inputs = keras.Input((3,))
    block = WithoutKwargs([TwoLayers(4, name="own"), ple], name="block")
    tasks, shared = block(inputs), bottom(inputs)
    outputs = heads({task: tasks[task] + shared[task] for task in tasks})
    return compiled(pk.MultiTaskModel(inputs, outputs), "adam")


def inside(model, *names):
    """Return an inner layer by the names of its outer layers and its own name."""
    layer = model
    for name in names:
        layers = layer._flatten_layers(include_self=False, recursive=False)
        layer = next(each for each in layers if each.name == name)
    return layer


def freeze_parts(model):
    ple = inside(model, "block", "ple")
    ple[0].get_expert("shared/expert_0").trainable = False
    ple[1].get_expert("click/expert_1").second.trainable = False
    inside(ple[0], "gate-click", "block").trainable = False
    inside(ple[1], "gate-time").trainable = False
    inside(model, "block", "own").first.trainable = False
    inside(model, "bottom", "bottom").first.trainable = False
    inside(model, "heads", "click_head", "tower").layers[0].second.trainable = False
    inside(model, "heads", "time_head", "tower", "dense_1").trainable = False


def thaw_parts(model):
    """Thaw parts of a PLE that was created frozen."""
    ple = inside(model, "block", "ple")
    assert not ple.trainable_weights
    ple[0].get_expert("shared/expert_0").second.trainable = True
    inside(ple[1], "gate-time").trainable = True
    inside(model, "heads").trainable = False


def is_trained(model):
    return {weight.path: weight.trainable for weight in model.weights}


@pytest.mark.parametrize(
    ("trainable", "change", "again"),
    [(True, freeze_parts, cloned), (False, thaw_parts, loaded)],
)
def test_frozen_parts_stay_frozen_in_loaded_and_cloned_models(trainable, change, again, tmp_path):
    model = model_of_all_kinds(trainable)
    unchanged = is_trained(model)
    change(model)
    expected = is_trained(model)
    assert expected != unchanged
    actual = is_trained(again(model, tmp_path))
    names = [re.sub(r"dense_\d+", "dense", path) for path in expected]  # automatic names
    assert [re.sub(r"dense_\d+", "dense", path) for path in actual] == names
    assert list(actual.values()) == list(expected.values())


def test_a_frozen_part_of_a_template_is_frozen_in_every_copy():
    template = pk.SequentialBlock([TwoLayers(3), pk.ExpertBlock(3)])
    template.build((None, 3))
    template[0].second.trainable = False
    cgc = pk.CGCBlock(["click"], template)
    cgc.build((None, 3))
    for expert in cgc.expert_names:
        own = cgc.get_expert(expert)[0]
        assert (own.first.trainable, own.second.trainable) == (True, False)
