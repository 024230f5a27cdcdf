"""Arguments of constructors are read-only once the model uses them."""

import copy
import inspect
import pickle

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras._keras.base_layer import BaseLayer
from tests._keras.layer_cases import TASKS, every_layer
from tests.helpers import features

PUBLIC = [c for c in vars(pk).values() if isinstance(c, type) and issubclass(c, BaseLayer)]
KERAS_ARGUMENTS = {"self", "kwargs", "name", "dtype", "trainable"}


def arguments_of(layer):
    """Return the constructor arguments of the classes of ple_keras."""
    classes = [c for c in type(layer).__mro__ if c.__module__.startswith("ple_keras.")]
    signatures = [
        inspect.signature(c.__init__).parameters for c in classes if "__init__" in vars(c)
    ]
    return sorted({name for s in signatures for name in s} - KERAS_ARGUMENTS)


def layers_of_ple_keras(layer):
    """Return a layer, and the public layers inside it."""
    return [each for each in layer._flatten_layers() if isinstance(each, tuple(PUBLIC))]


@every_layer
def test_no_argument_of_a_built_layer_can_be_assigned(case):
    layer = case.make()
    case.model(layer)
    for each in layers_of_ple_keras(layer):
        config = repr(each.get_config())
        assert arguments_of(each)
        for argument in arguments_of(each):
            with pytest.raises(AttributeError, match=f"^{argument} of .* is read-only") as error:
                setattr(each, argument, None)
            assert str(error.value).endswith(f"Received: {argument}=None")
        assert repr(each.get_config()) == config


def test_every_public_layer_is_tested():
    tested = set()
    for case in every_layer.args[1]:
        layer = case.make()
        case.model(layer)
        tested |= {type(each) for each in layers_of_ple_keras(layer)}
    assert set(PUBLIC) - {pk.RankingHead} <= tested  # a RankingHead takes lists alone


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: pk.ExpertBlock(4), "units"),
        (lambda: pk.Gate(3), "gate_dropout"),
        (lambda: pk.CGCBlock(["a"], 4), "num_shared_experts"),
        (lambda: pk.TaskHeads([pk.BinaryHead("a")]), "loss_weighting"),
    ],
)
def test_what_a_constructor_has_used_is_read_only_before_the_layer_is_built(make, argument):
    with pytest.raises(AttributeError, match=f"^{argument} of "):
        setattr(make(), argument, 1)


@pytest.mark.parametrize("argument", ["loss_weight", "loss", "missing_label", "reduction"])
def test_a_head_is_read_only_once_it_is_built(argument):
    heads = pk.TaskHeads([pk.RegressionHead("a", loss_weight=2.0), pk.RegressionHead("b")])
    setattr(heads["a"], argument, value := getattr(heads["b"], argument))
    heads(dict.fromkeys(heads, features(2, 3)))
    assert heads.loss_weights() == {"a": 1.0 if argument == "loss_weight" else 2.0, "b": 1.0}
    with pytest.raises(AttributeError, match=f"^{argument} of 'a_head' is read-only"):
        setattr(heads["a"], argument, value)


def test_the_message_names_the_ways_to_change_an_argument():
    head = pk.BinaryHead("a")
    head.build((None, 3))
    with pytest.raises(AttributeError, match=r"multiply_loss_weights.*from_config") as error:
        head.loss_weight = 2.0
    config = {**head.get_config(), "loss_weight": 2.0}
    assert 'from_config({**layer.get_config(), "loss_weight": ...})' in str(error.value)
    assert type(head).from_config(config).loss_weight == 2.0


@keras.saving.register_keras_serializable(package="tests")
class ScaledExpert(pk.ExpertBlock):
    """An expert with an argument of its own, assigned after the constructor of the base."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale

    def call(self, inputs, training=None):
        return self.scale * super().call(inputs, training=training)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def test_arguments_of_a_subclass_can_be_assigned():
    expert = ScaledExpert(4)
    x = features(2, 3)
    output = keras.ops.convert_to_numpy(expert(x))
    expert.scale = 2.0
    np.testing.assert_allclose(keras.ops.convert_to_numpy(expert(x)), 2 * output, rtol=1e-6)
    with pytest.raises(AttributeError, match=r"^units of "):
        expert.units = (2,)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_model_are_read_only(duplicate):
    inputs = keras.Input((3,))
    block, heads = (
        pk.CGCBlock(TASKS, 4, name="cgc"),
        pk.TaskHeads([pk.BinaryHead(task) for task in TASKS]),
    )
    model = pk.MultiTaskModel(inputs, heads(block(inputs)))
    copied = duplicate(model)
    with pytest.raises(AttributeError, match=r"^gate_dropout of 'cgc'"):
        copied.get_layer("cgc").gate_dropout = 0.5
