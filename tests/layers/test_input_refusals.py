"""Invalid inputs of layers, and invalid calls of methods."""

import operator

import keras
import pytest

import ple_keras as pk
from tests.helpers import built, features, streams
from tests.layers.blocks import BLOCKS
from tests.refusals import BAD_INPUTS, check_refused, table

LAYERS_OF_ONE_TENSOR = {
    "expert": lambda: pk.ExpertBlock([4, 3]),
    "gate": lambda: pk.Gate(3),
    "gate_of_one_expert": lambda: pk.Gate(1),
    "gate_with_block": lambda: pk.Gate(3, gate_block=4),
    "cgc": lambda: pk.CGCBlock(["a"], 3),
    "cgc_copied": lambda: pk.CGCBlock(["a"], keras.layers.Dense(3)),
    "ple": lambda: pk.PLEBlock(2, ["a"], 3),
    "mmoe": lambda: pk.MMoEBlock(["a"], 3, 2),
    "shared_bottom": lambda: pk.SharedBottomBlock(["a"], 3),
    "shared_bottom_of_a_layer": lambda: pk.SharedBottomBlock(["a"], keras.layers.Dense(3)),
}

every_layer = pytest.mark.parametrize(
    "make", list(LAYERS_OF_ONE_TENSOR.values()), ids=list(LAYERS_OF_ONE_TENSOR)
)


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_INPUTS))
@every_layer
def test_the_first_call_refuses_inputs_with_invalid_shapes(make, make_inputs, message):
    layer, inputs = make(), make_inputs()
    check_refused(lambda: layer(inputs), ValueError, message)


MADE_OF_LEVELS = [LAYERS_OF_ONE_TENSOR[name] for name in ("cgc", "cgc_copied", "ple", "mmoe")]

BAD_LATER_INPUTS = {
    "other_width": (
        lambda: features(2, 6),
        r"\(batch, \.\.\., 5\), as when .*\. Received: inputs\['\w+'\]\.shape=\(2, 6\)",
    ),
    "symbolic_other_width": (
        lambda: keras.Input((6,)),
        r"\(batch, \.\.\., 5\), as when .*\. Received: inputs\['\w+'\]\.shape=\(None, 6\)",
    ),
    "rank_1": (
        lambda: features(5),
        r"\(batch, \.\.\., 5\), as when .*\. Received: inputs\['\w+'\]\.shape=\(5,\)",
    ),
    "list": (
        lambda: [features(2, 5), features(2, 5)],
        r"inputs must be one tensor or a dict by stream\. Received: inputs=\[",
    ),
}


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_LATER_INPUTS))
@pytest.mark.parametrize("make", MADE_OF_LEVELS, ids=["cgc", "cgc_copied", "ple", "mmoe"])
def test_a_built_level_refuses_inputs_of_other_shapes(make, make_inputs, message):
    layer, inputs = make(), make_inputs()
    layer(features(2, 5))
    check_refused(lambda: layer(inputs), ValueError, message)


def test_a_built_level_accepts_symbolic_inputs_of_unknown_width():
    block = pk.CGCBlock(["a"], 3)
    block(features(2, 5))
    assert block(keras.Input((None,)))["a"].shape == (None, 3)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(LAYERS_OF_ONE_TENSOR[name], id=name)
        for name in ("expert", "gate", "gate_with_block", "shared_bottom")
    ],
)
def test_keras_refuses_another_width_in_layers_with_one_network(make):
    layer = make()
    layer(features(2, 5))
    with pytest.raises(
        ValueError, match=r"to have value 5, but received input with shape \(2, 6\)"
    ):
        layer(features(2, 6))


BAD_STREAMS = {
    "missing": (lambda: streams(a=5, b=4), r"missing: \['shared'\], unknown: \[\]"),
    "extra": (lambda: streams(a=5, b=4, c=4, shared=6), r"missing: \[\], unknown: \['c'\]"),
    "renamed": (lambda: streams(a=5, B=4, shared=6), r"missing: \['b'\], unknown: \['B'\]"),
}


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_STREAMS))
@pytest.mark.parametrize("block", [BLOCKS["cgc"], BLOCKS["ple"]], ids=["cgc", "ple"])
@pytest.mark.parametrize("is_built", [False, True], ids=["first_call", "later_call"])
def test_a_dict_must_have_the_streams_as_keys(block, make_inputs, message, is_built):
    layer, inputs = block(["a", "b"]), make_inputs()
    if is_built:
        layer(streams(a=5, b=4, shared=6))
    check_refused(
        lambda: layer(inputs), ValueError, f"inputs must have.*{message}.*Received: inputs="
    )


def test_a_cgc_block_refuses_an_empty_dict():
    layer = pk.CGCBlock(["a"], 3)
    check_refused(lambda: layer({}), ValueError, r"Received: inputs")
    layer(features(2, 5))
    check_refused(lambda: layer({}), ValueError, r"missing: \['a', 'shared'\].*Received: inputs=")


@pytest.mark.parametrize(
    "layer",
    [
        pk.SharedBottomBlock(["a"], 3),
        pk.Gate(1),
        pk.Gate(2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_error_for_another_width_names_the_layer(layer):
    layer(features(2, 5))
    with pytest.raises(ValueError, match=rf"layer .{layer.name}..*value 5.*received.*\(2, 4\)"):
        layer(features(2, 4))
    with pytest.raises(ValueError, match="value 5"):
        layer(keras.Input((4,)))


def test_a_sequential_block_refuses_an_empty_dict():
    ple = pk.PLEBlock(1, ["a"], 3)
    check_refused(lambda: ple({}), ValueError, r"inputs must be a tensor.*Received: inputs")


def test_a_block_without_shared_experts_refuses_a_shared_input():
    block = pk.CGCBlock(["a"], 3, num_shared_experts=0, add_shared_gate=False)
    check_refused(
        lambda: block(streams(a=5, shared=5)),
        ValueError,
        r"unknown: \['shared'\]\. Received: inputs=\{'a', 'shared'\}",
    )


def test_streams_with_different_leading_axes_are_refused():
    block = pk.CGCBlock(["a"], 3)
    inputs = {"a": features(2, 5), "shared": features(2, 3, 5)}
    check_refused(
        lambda: block(inputs),
        ValueError,
        r"same axes, except for the last, in every stream\. "
        r"Received: inputs=\{'a': \(2, 5\), 'shared'",
    )


def test_a_built_block_refuses_another_width_of_one_stream():
    block = pk.CGCBlock(["a"], 3)
    block(streams(a=5, shared=4))
    check_refused(
        lambda: block(streams(a=5, shared=6)),
        ValueError,
        r"\(batch, \.\.\., 4\), as when .*Received: inputs\['shared'\]\.shape=\(2, 6\)",
    )


METHODS = {
    "expert_outputs_unbuilt": (
        lambda: pk.CGCBlock(["a"], 3),
        lambda block: block.expert_outputs(features(2, 5)),
        r"must be built\. .*Received: built=False",
    ),
    "gate_weights_unbuilt": (
        lambda: pk.CGCBlock(["a"], 3),
        lambda block: block.gate_weights(features(2, 5)),
        r"must be built\. .*Received: built=False",
    ),
    "expert_outputs_of_another_width": (
        lambda: built(pk.CGCBlock(["a"], 3)),
        lambda block: block.expert_outputs(features(2, 6)),
        r"\(batch, \.\.\., 5\), as when .*Received: inputs\['a'\]\.shape=\(2, 6\)$",
    ),
    **{
        f"{method}_of_symbolic_inputs": (
            lambda: built(pk.CGCBlock(["a"], 3)),
            operator.methodcaller(method, keras.Input((5,))),
            r"must be arrays or tensors.*return_gate_weights=True\. Received: built=True, ",
        )
        for method in ("expert_outputs", "gate_weights")
    },
    "gate_weights_of_a_list": (
        lambda: built(pk.CGCBlock(["a"], 3)),
        lambda block: block.gate_weights([features(2, 5)]),
        r"must be one tensor.*Received: inputs",
    ),
}


@pytest.mark.parametrize(("make", "call", "message"), table(METHODS))
def test_an_invalid_method_call_is_refused(make, call, message):
    layer = make()
    check_refused(lambda: call(layer), ValueError, message)


@every_layer
def test_a_layer_works_after_a_refused_call(make):
    layer = make()
    with pytest.raises(ValueError, match="Received: inputs"):
        layer(features(5))
    layer(features(2, 5))
    assert layer.built
