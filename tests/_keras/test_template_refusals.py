"""Invalid widths and templates are refused by every argument that takes a template."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import features, once
from tests.pairs import pairs
from tests.refusals import Unlike, check_refused

TEMPLATE_ARGUMENTS = {
    "expert_block": lambda value: pk.CGCBlock(["a"], value),
    "expert_block_of_ple": lambda value: pk.PLEBlock(2, ["a"], value),
    "expert_block_of_mmoe": lambda value: pk.MMoEBlock(["a"], value, 2),
    "gate_block": lambda value: pk.Gate(2, gate_block=value),
    "gate_block_of_cgc": lambda value: pk.CGCBlock(["a"], 3, gate_block=value),
    "gate_block_of_ple": lambda value: pk.PLEBlock(2, ["a"], 3, gate_block=value),
    "bottom_block": lambda value: pk.SharedBottomBlock(["a"], value),
    "tower": lambda value: pk.BinaryHead("a", tower=value),
}

BAD_UNITS = {
    "empty": ([], ValueError, r"{0} must hold at least one width\. Received: {0}=\[\]"),
    "zero": (0, ValueError, r"{0} must be at least 1\. Received: {0}=0"),
    "negative": ([4, -1], ValueError, r"{0}\[1\] must be at least 1\. Received: {0}\[1\]=-1"),
    "zero_inside": ((4, 0), ValueError, r"{0}\[1\] must be at least 1\. Received: {0}\[1\]=0"),
    "float_inside": ([4.0], TypeError, r"{0}\[0\] must be an integer\. Received: {0}\[0\]=4\.0"),
    "bool_inside": ([True], TypeError, r"{0}\[0\] must be an integer\. Received: {0}\[0\]=True"),
    "float": (4.0, TypeError, r"{0} must be an int.*Received: {0}=4\.0"),
    "bool": (True, TypeError, r"{0} must be an int.*Received: {0}=True"),
    "string": ("4", TypeError, r"{0} must be an int.*Received: {0}='4'"),
    "set": ({4}, TypeError, r"{0} must be an int.*Received: {0}=\{{4\}}"),
    "object": (Unlike(), TypeError, r"{0} must be an int.*Received: {0}=<Unlike>"),
}


NAMES = {name: name for name in TEMPLATE_ARGUMENTS}


@once
@pytest.mark.parametrize(
    ("value", "error", "message", "name"), pairs(BAD_UNITS, {"units": "units", **NAMES})
)
def test_invalid_units_are_refused(name, value, error, message):
    make = {"units": pk.ExpertBlock, **TEMPLATE_ARGUMENTS}[name]
    check_refused(lambda: make(value), error, message.format(name.split("_of_")[0]))


@keras.saving.register_keras_serializable("test_template_refusals")
class IncompleteConfig(pk.ExpertBlock):
    """An expert with an argument that its inherited config lacks."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale


@keras.saving.register_keras_serializable("test_template_refusals")
class Opaque(keras.layers.Layer):
    """A layer without get_config and with an argument that Keras can't serialize."""

    def __init__(self, thing, **kwargs):
        super().__init__(**kwargs)
        self.thing = thing


@keras.saving.register_keras_serializable("test_template_refusals")
class WithoutKwargs(keras.layers.Layer):
    """A layer that has get_config, but can't be given a name."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def call(self, inputs):
        return inputs[..., : self.width]

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("test_template_refusals")
class Splitting(keras.layers.Layer):
    """A layer that returns two tensors."""

    def call(self, inputs):
        return [inputs, inputs]


def functional_of_seven_features():
    inputs = keras.Input((7,))
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


WITHOUT_KWARGS = (
    r"WithoutKwargs\.__init__\(\) got an unexpected keyword argument '\w+'\. "
    r".* an __init__ that passes \*\*kwargs, such as name, to that of keras\.layers\.Layer"
)
BAD_TEMPLATES = {
    "lambda": (lambda: keras.layers.Lambda(lambda x: x), ValueError, r"copied.*Lambda"),
    "without_get_config": (
        lambda: IncompleteConfig(3, scale=2.0),
        ValueError,
        r"takes \['scale'\], which its config lacks; give IncompleteConfig a get_config",
    ),
    "inside_a_sequential": (
        lambda: keras.Sequential([IncompleteConfig(3, scale=2.0)]),
        ValueError,
        r"takes \['scale'\], which its config lacks",
    ),
    "not_serializable": (lambda: Opaque(Unlike()), ValueError, r"Give it\s+get_config"),
    "without_kwargs": (lambda: WithoutKwargs(3), ValueError, WITHOUT_KWARGS),
    "without_kwargs_inside_a_sequential": (
        lambda: keras.Sequential([WithoutKwargs(3)]),
        ValueError,
        WITHOUT_KWARGS,
    ),
    "without_kwargs_inside_a_layer": (
        lambda: keras.layers.TimeDistributed(WithoutKwargs(3)),
        ValueError,
        WITHOUT_KWARGS,
    ),
    "class": (lambda: keras.layers.Dense, TypeError, r"instance of a Keras layer.*=<class"),
    "name": (lambda: "dense", TypeError, r"instance of a Keras layer.*='dense'"),
    "function": (lambda: len, TypeError, r"instance of a Keras layer.*=<built-in"),
    "dict": (lambda: {"units": 3}, TypeError, r"instance of a Keras layer.*=\{'units': 3\}"),
}


@once
@pytest.mark.parametrize(("make_template", "error", "message", "name"), pairs(BAD_TEMPLATES, NAMES))
def test_a_template_that_cannot_be_copied_is_refused(name, make_template, error, message):
    argument = name.split("_of_")[0]
    template = make_template()
    check_refused(
        lambda: TEMPLATE_ARGUMENTS[name](template),
        error,
        f"^{argument} must be .*{message}",
    )
    check_refused(lambda: TEMPLATE_ARGUMENTS[name](template), error, f"Received: {argument}=")


UNFIT_TEMPLATES = {
    "flatten": (keras.layers.Flatten, (2, 3, 5), r"it maps \(2, 3, 5\) to \(2, 15\)"),
    "pooling": (
        keras.layers.GlobalAveragePooling1D,
        (2, 3, 5),
        r"it maps \(2, 3, 5\) to \(2, 5\)",
    ),
    "dict": (lambda: pk.SharedBottomBlock(["t"], 3), (2, 5), r"it maps \(2, 5\) to \{'t'"),
    "list": (Splitting, (2, 5), r"it maps \(2, 5\) to \["),
    "other_width": (functional_of_seven_features, (2, 5), r"take inputs of shape \(2, 5\)"),
}


@pytest.mark.parametrize(
    ("make_template", "shape", "message", "name"), pairs(UNFIT_TEMPLATES, NAMES)
)
def test_a_template_with_invalid_output_shapes_is_refused(name, make_template, shape, message):
    argument = name.split("_of_")[0]
    layer = TEMPLATE_ARGUMENTS[name](make_template())
    check_refused(
        lambda: layer(features(*shape)),
        ValueError,
        f"{argument} must .*{message}.*Received: {argument}=",
    )


def test_experts_with_different_output_widths_are_refused():
    block = pk.CGCBlock(["a"], keras.layers.Activation("relu"))
    inputs = {"a": features(2, 5), "shared": features(2, 4)}
    check_refused(
        lambda: block(inputs),
        ValueError,
        r"one width for all .*these differ: \{'a/expert_0': 5, 'shared/expert_0': 4\}\. "
        r"Received: expert_block=<Activation",
    )
