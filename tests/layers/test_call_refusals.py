"""Inputs and calls of methods that layers refuse."""

import operator

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import built, every_backend, features, once, streams
from tests.layers.feature_networks import network
from tests.pairs import pairs
from tests.refusals import BAD_INPUTS, check_refused, table

pytestmark = once

X, C, SYMBOL = features(4, 3), features(4, 2), keras.Input((3,))
TASKS = ["a", "b"]
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


@every_backend
@pytest.mark.parametrize(
    ("make", "make_inputs", "message"), pairs(LAYERS_OF_ONE_TENSOR, BAD_INPUTS)
)
def test_a_first_call_with_bad_inputs_is_refused_and_the_layer_still_works(
    make, make_inputs, message
):
    layer, inputs = make(), make_inputs()
    check_refused(lambda: layer(inputs), ValueError, message)
    layer(features(2, 5))
    assert layer.built


LEVELS = {name: LAYERS_OF_ONE_TENSOR[name] for name in ("cgc", "cgc_copied", "ple", "mmoe")}
WIDTH = r"\(batch, \.\.\., 5\) that the block .*\. Received: inputs\['\w+'\]\.shape="
BAD_LATER_INPUTS = {
    "other_width": (lambda: features(2, 6), WIDTH + r"\(2, 6\)"),
    "symbolic_other_width": (lambda: keras.Input((6,)), WIDTH + r"\(None, 6\)"),
    "rank_1": (lambda: features(5), WIDTH + r"\(5,\)"),
    "list": (lambda: [features(2, 5)] * 2, r"a dict keyed by stream.*Received: .*inputs=\["),
}


@pytest.mark.parametrize(("make_inputs", "message", "make"), pairs(BAD_LATER_INPUTS, LEVELS))
def test_a_built_level_refuses_inputs_of_other_shapes(make, make_inputs, message):
    layer, inputs = make(), make_inputs()
    layer(features(2, 5))
    check_refused(lambda: layer(inputs), ValueError, message)


BAD_STREAMS = {
    "missing": (lambda: streams(a=5, b=4), r"missing: \['shared'\], unknown: \[\]"),
    "renamed": (lambda: streams(a=5, B=4, shared=6), r"missing: \['b'\], unknown: \['B'\]"),
    "no_streams": (dict, r"missing: \['a', 'b', 'shared'\]"),
}


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_STREAMS))
@pytest.mark.parametrize("is_built", [False, True], ids=["first_call", "later_call"])
def test_a_dict_must_have_the_streams_as_keys(make_inputs, message, is_built):
    layer, inputs = pk.CGCBlock(TASKS, 3), make_inputs()
    if is_built:
        layer(streams(a=5, b=4, shared=6))
    elif not inputs:
        message = ""
    check_refused(
        lambda: layer(inputs), ValueError, rf"inputs\S* must .*{message}.*Received: inputs"
    )


# Contexts of gates.


def by_gate(**widths):
    return {gate: features(4, width) for gate, width in widths.items()}


AXES = r"axes of the inputs.*Received: gate_context\.shape="
KEYS = "gate_context must have exactly.*"
BAD_CONTEXTS = {
    "none": (None, r"must be a tensor \(\.\.\., C\).*gate_reads='both'\. Received: .*=None"),
    "one_row": (features(1, 2), AXES + r"\(1, 2\), in"),
    "unknown_gate": (by_gate(a=2, b=2, shared=2, c=2), KEYS + r"missing: \[\], unknown: \['c'\]"),
    "missing_gate": (by_gate(a=2, shared=2), KEYS + r"missing: \['b'\].*Received: gate_con"),
    "missing_shared": (by_gate(a=2, b=2), KEYS + r"missing: \['shared'\], unknown: \[\]"),
    "rows_of_one_gate": (
        {**by_gate(a=2, shared=2), "b": features(2, 2)},
        r"Received: gate_context\['b'\]\.shape=\(2, 2\), inputs\['b'\]\.shape=\(4, 3\)",
    ),
}


def level(**kwargs):
    return pk.CGCBlock(TASKS, [3], **kwargs)


def levels(**kwargs):
    return pk.PLEBlock(2, TASKS, [3], **kwargs)


def read(make, is_built):
    """Return a block whose gates read a context."""
    block = make(gate_reads="both")
    if is_built:
        block(X, gate_context=C)
    return block


READING = {
    f"{make.__name__}-{state}": (make, state == "built")
    for state in ("new", "built")
    for make in (level, levels)
}


@pytest.mark.parametrize(("context", "message", "make", "is_built"), pairs(BAD_CONTEXTS, READING))
def test_a_context_that_does_not_match_the_gates_is_refused(make, is_built, context, message):
    block = read(make, is_built)
    check_refused(lambda: block(X, gate_context=context), ValueError, message)


@pytest.mark.parametrize(
    ("make", "is_built", "x", "context"),
    pairs(READING, {"eager": (X, C), "symbolic": (SYMBOL, keras.Input((2,))), "again": (X, C)}),
)
def test_a_context_that_is_not_read_is_refused(make, is_built, x, context):
    block = make()
    if is_built:
        block(X)
    message = r"gate_context must (be None|not be given).*Received: gate_context.*\(\w+, 2\)"
    check_refused(lambda: block(x, gate_context=context), ValueError, message)


# Single calls: a layer, the call, and a part of the message.


def sequence(*layers, **kwargs):
    return pk.SequentialBlock(list(layers), **kwargs)


def built_level():
    return built(level())


def read_level():
    return read(level, True)


def tracking_gate():
    return pk.Gate(3, track_weights=True)


def of_width_7():
    inputs = keras.Input((7,))
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


def bottom(block=3, **kwargs):
    return pk.SharedBottomBlock(TASKS, block, **kwargs)


def of_branches(**branches):
    return pk.HedgedBlock(TASKS, branches={"bottom": bottom(name="bottom"), **branches})


def of_features(template=None):
    return pk.StreamFeatures(TASKS, template or network())


def hedged_of_features():
    return pk.HedgedBlock(TASKS, 4, features=keras.layers.Dense(3))


def with_input(x, **kwargs):
    """Return the call with an input."""
    return lambda layer: layer(x, **kwargs)


calling = operator.methodcaller
NEW = r"the block must be built.*Received: built=False"
WEIGHTS = {"return_gate_weights": True}
REFUSED = [
    (
        lambda: level(num_shared_experts=0, add_shared_gate=False),
        with_input(streams(a=5, b=5, shared=5)),
        r"unknown: \['shared'\]\. Received: inputs=\{'a', 'b', 'shared'\}",
    ),
    (
        level,
        with_input({**streams(a=5, b=5), "shared": features(2, 3, 5)}),
        r"equal axes, except for the last one\. Received: inputs=\{'a': \(2, 5\), 'b'",
    ),
    (built_level, with_input(streams(a=5, b=5, shared=6)), WIDTH + r"\(2, 6\)"),
    (built_level, calling("expert_outputs", X), WIDTH + r"\(4, 3\)$"),
    (built_level, calling("gate_weights", [X]), "must be a tensor.*Received: built=True, inputs="),
    (level, calling("expert_outputs", X), NEW),
    (level, calling("gate_weights", X), NEW),
    (built_level, calling("gate_statistics"), "enable_gate_weights_metrics=True"),
    (tracking_gate, calling("statistics"), "be built.*Received: built=False$"),
    (read_level, with_input(SYMBOL), r"Received: gate_context.shape=None"),
    (
        read_level,
        with_input(SYMBOL, gate_context=keras.Input((3,))),
        r"\(batch, \.\.\., 2\) that the block.*Received: gate_context\.shape=\(None, 3\)",
    ),
    (read_level, with_input(SYMBOL, gate_context=keras.Input((5, 2))), AXES + r"\(None, 5, 2\)"),
    (
        lambda: sequence(keras.layers.Dense(3), bottom()),
        with_input(X, **WEIGHTS),
        r"must not be given, since no layer takes it.*Received: return_gate_weights=True",
    ),
    (
        lambda: of_branches(ple=levels()),
        with_input(streams(a=4, b=4, shared=4)),
        r"inputs must have a shape \(batch, .*Received: inputs\.shape=\('a', 'b', 'shared'\)",
    ),
    (
        lambda: pk.HedgedBlock(TASKS, 3),
        with_input(streams(a=2, shared=3)),
        "inputs must have exactly the keys",
    ),
    (of_features, with_input({"item": np.ones(2, "int32")}), "must accept "),
    (
        lambda: pk.CGCBlock(["a"], keras.layers.Activation("relu")),
        with_input(streams(a=5, shared=4)),
        r"must have the same output width.*widths=\{'a/expert_0': 5, 'shared/expert_0': 4\}",
    ),
]


UNFIT = [
    ("expert_block", lambda x: pk.CGCBlock(TASKS, x), keras.layers.Flatten, r"to \(2, 15\)"),
    ("tower", lambda x: pk.BinaryHead("a", tower=x), bottom, r"return a tensor, .* \{'a'"),
    ("expert_block", lambda x: pk.PLEBlock(2, TASKS, x), of_width_7, r"accept <.* shape=\(2, 3, 5"),
]


@pytest.mark.parametrize(("argument", "make", "template", "message"), UNFIT)
def test_a_template_with_invalid_output_shapes_is_refused(argument, make, template, message):
    layer, x = make(template()), features(2, 3, 5)
    message = f"{argument} must .*{message}.*Received: {argument}="
    check_refused(lambda: layer(x), ValueError, message)


WRONG_TYPES = [
    (level, with_input(X, return_gate_weights="yes"), "return_gate_weights must be True or False"),
    (levels, with_input(SYMBOL, return_gate_weights="yes"), "must be True or False"),
    (of_features, with_input([X, X]), "inputs must be a tensor or dict of columns"),
    (hedged_of_features, with_input([X]), "inputs must be a tensor or dict"),
    (of_features, with_input(None), "inputs must be a tensor or dict of columns"),
]


@pytest.mark.parametrize(
    ("make", "call", "message", "error"),
    [*((*row, ValueError) for row in REFUSED), *((*row, TypeError) for row in WRONG_TYPES)],
)
def test_an_invalid_call_is_refused(make, call, message, error):
    layer = make()
    check_refused(lambda: call(layer), error, message)


def test_a_built_level_accepts_symbolic_inputs_of_unknown_width():
    block = built(level())
    assert block(keras.Input((None,)))["a"].shape == (None, 3)
