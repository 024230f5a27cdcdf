"""Arguments, names, layers and calls of blocks, and what they refuse."""

import json
import operator
import typing

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras import _typing
from tests.helpers import assert_same, built, every_backend, features, numpy_of, once, streams
from tests.layers.feature_networks import TASKS, bottom
from tests.models import chain, loaded
from tests.pairs import pairs
from tests.refusals import (
    BAD_INPUTS,
    BOOLS,
    POSITIVE,
    RULE,
    arguments_refused,
    at,
    at_least,
    check_refused,
    table,
)

pytestmark = once


def test_the_levels_get_the_arguments():
    arguments = {
        "gate_kwargs": {"dropout": 0.25},
        "gate_reads": "both",
        "stack_experts": False,
        "trainable": False,
        "isolate_task_experts": True,
        "gate_softmax_temperature": 2.0,
        "enable_gate_weights_metrics": True,
    }
    gates = {"gate_block": 4, "dtype": "mixed_bfloat16"}
    ple = pk.PLEBlock(2, ["a"], 3, **arguments, **gates)
    mmoe = pk.MMoEBlock(["a"], 3, 2, **arguments, **gates)
    for block in (*ple, mmoe):
        config = block.get_config()
        assert {name: config[name] for name in arguments} == arguments
        assert config["gate_block"]
        assert block.compute_dtype == "bfloat16"


def test_layers_are_found_by_name_and_index():
    ple = pk.PLEBlock(2, ["a"], 3)
    first, second = ple.layers
    assert ple["cgc_block_1"] is ple.get_layer("cgc_block_1") is second
    assert ple[0] is ple.get_layer(index=0) is ple.get_layer(index=-2) is first
    assert ple[-1] is second
    assert ple[:1] == [first]


@pytest.mark.parametrize("arguments", [{}, {"name": "cgc_block_0", "index": 0}])
def test_get_layer_refuses_keys_of_no_layer(arguments):
    ple = pk.PLEBlock(2, ["a"], 3)
    check_refused(lambda: ple.get_layer(**arguments), ValueError, "Either name or index .*index=")


def test_an_unknown_name_in_brackets_is_a_key_error_that_names_the_layers():
    with pytest.raises(KeyError, match=r"one of \['cgc_block_0'\]\. Received: name='x'"):
        pk.PLEBlock(1, ["a"], 3)["x"]


OPTIONS = {
    "GateInput": lambda x: pk.CGCBlock(["a"], 3, gate_reads=x),
    "Normalization": lambda x: pk.ExpertBlock(3, normalization=x),
    "LossReduction": lambda x: pk.Head("a", reduction=x),
    "LearnedWeighting": lambda x: pk.TaskHeads([pk.BinaryHead("a")], loss_weighting=x),
    "GroupWeighting": lambda x: pk.grouped_auc([0, 1], [0.1, 0.9], [1, 1], weighting=x),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_values_in_a_signature_are_accepted_and_no_others(name):
    for value in typing.get_args(getattr(_typing, name)):
        OPTIONS[name](value)
    with pytest.raises(ValueError, match=r"Received: .*='x'"):
        OPTIONS[name]("x")


# Counts by level.


def test_counts_of_numpy_and_lists_of_equal_counts_are_the_same_block():
    number = pk.PLEBlock(2, TASKS, [3], 2, [1, 2], name="ple")
    same = pk.PLEBlock(2, TASKS, [3], [np.int64(2)] * 2, [*np.array([1, 2])], name="ple")
    assert json.dumps(same.get_config()) == json.dumps(number.get_config())


def test_a_list_of_lists_is_the_units_of_each_level():
    ple = pk.PLEBlock(3, TASKS, [[8, 5], 6, [4]])
    assert [x.get_config()["expert_block"]["config"]["units"] for x in ple] == [[8, 5], [6], [4]]


# Subclasses of CGCBlock that override `call`, and summaries.


def test_a_summary_shows_the_levels_experts_and_gates(capsys):
    levels = [
        pk.CGCBlock(TASKS, [4], name="stacked"),
        pk.CGCBlock(TASKS, [4], add_shared_gate=False, stack_experts=False, name="copied"),
    ]
    assert [len(level.layers) for level in levels] == [0, 0]
    model = chain(pk.SequentialBlock(levels, name="ple"))
    model.summary(expand_nested=True)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("└")[1].split()[0] for line in lines if "└ " in line]
    gates = ["gate-a", "gate-b"]
    experts = ["expert-a-0", "expert-b-0", "expert-shared-0"]
    assert rows == ["stacked", "experts", *gates, "gate-shared", "copied", *experts, *gates]


# Refused arguments.

LEVELS = (pk.CGCBlock, pk.PLEBlock, pk.MMoEBlock)
BLOCKS = (*LEVELS, pk.SharedBottomBlock)
REQUIRED = {
    pk.CGCBlock: {"outputs": TASKS, "expert_block": 3},
    pk.PLEBlock: {"num_layers": 2, "outputs": TASKS, "expert_block": 3},
    pk.MMoEBlock: {"outputs": TASKS, "expert_block": 3, "num_experts": 2},
    pk.SharedBottomBlock: {"outputs": TASKS, "bottom_block": 3},
    pk.StreamFeatures: {"outputs": TASKS, "feature_block": keras.layers.Dense(3)},
    pk.SequentialBlock: {},
}
ONCE = "must have tasks, each once"
NAMES = "sequence of task names"
HEAD = pk.BinaryHead("a")
OUTPUTS = [
    *((value, ValueError, ONCE) for value in ([], {}, ["a", "b", "a"], [HEAD, pk.BinaryHead("a")])),
    *((value, TypeError, NAMES) for value in ("ab", b"ab", {"a"}, iter("ab"), 2, None, HEAD)),
    ({"b": HEAD}, ValueError, "each task to the head of the task .*'b' has <BinaryHead"),
    ({"a": 3}, ValueError, "each task to the head of the task .* 'a' has 3"),
    (["fine", "a/b"], ValueError, rf"{RULE}; invalid: 'a/b'\."),
    (["fine", 3], TypeError, rf"{RULE}; invalid: 3\."),
]
GATE_KWARGS = [
    ({"top_q": 1}, ValueError, r"unknown: \['top_q'\]"),
    ({"name": "gate"}, ValueError, r"keys among \['dropout', .*unknown: \['name'\]"),
    (["dropout"], TypeError, "must be a dict "),
]
COUNTS_BY_TASK = [
    ({"a": 1}, ValueError, r"missing: \['b'\], unknown: \[\].*\{'a'\}"),
    ({"a": 1, "b": 1, "c": 1}, ValueError, r"missing: \[\], unknown: \['c'\]"),
    ({"a": [1, 1], "b": 1}, TypeError, r"Received: num_task_experts\['a'\]=\[1, 1\]$"),
]
A_LEVEL = "2 entries, one for each level"
NO_LIST = [([1], TypeError, r"must be an integer\. .*=\[1\]$")]
TASK_COUNTS_BY_LEVEL = [
    *(([1] * count, ValueError, A_LEVEL) for count in (0, 1, 3)),
    ([{"a": 1}, 1], ValueError, r"^num_task_experts must have.*missing: \['b'\]"),
]
SHARED_COUNTS_BY_LEVEL = [
    ((1, 2, 3), ValueError, A_LEVEL),
    ([1, {"a": 1}], TypeError, r"must be an integer\. .*num_shared_experts=\{'a': 1\}$"),
]
LAYERS = [
    ([], ValueError, "must not be empty or"),
    ([keras.layers.Dense(3), len], TypeError, "must be a sequence of Keras layers"),
    ([bottom(name="x")] * 2, ValueError, r"have equal names\. .*=\['x', 'x'\]$"),
]
READS = [("all", ValueError, r"must be one of \('stream', 'context', 'both'\)")]
FLAGS = "enable_gate_weights_metrics", "isolate_task_experts", "stack_experts"
test_a_bad_argument_is_refused = arguments_refused(
    REQUIRED,
    [
        (at("outputs", *BLOCKS, pk.StreamFeatures), OUTPUTS),
        (at("num_layers", pk.PLEBlock), at_least(1)),
        (at("num_experts", pk.MMoEBlock), at_least(1)),
        (at("num_task_experts", pk.CGCBlock, pk.PLEBlock), [*at_least(0), *COUNTS_BY_TASK]),
        (at("num_shared_experts", pk.CGCBlock, pk.PLEBlock), at_least(0)),
        (at("num_task_experts", pk.CGCBlock), NO_LIST),
        (at("num_shared_experts", pk.CGCBlock), NO_LIST),
        (at("num_task_experts", pk.PLEBlock), TASK_COUNTS_BY_LEVEL),
        (at("num_shared_experts", pk.PLEBlock), SHARED_COUNTS_BY_LEVEL),
        (at("gate_softmax_temperature", *LEVELS), POSITIVE),
        (at("gate_kwargs", *LEVELS), GATE_KWARGS),
        (at("gate_reads", *LEVELS), READS),
        *((at(flag, *LEVELS), BOOLS) for flag in FLAGS),
        (at("add_shared_gate", pk.CGCBlock), BOOLS),
        (at("layers", pk.SequentialBlock), LAYERS),
    ],
)


NONE_OF_A, NONE_OF_B = (
    rf"every gate must have at least one expert, but \['{task}'.* have none.*num_task_experts="
    for task in TASKS
)
TOGETHER = [
    (pk.CGCBlock, {"num_task_experts": 0, "num_shared_experts": 0}, NONE_OF_A),
    (pk.PLEBlock, {"num_task_experts": {"a": 1, "b": 0}, "num_shared_experts": 0}, NONE_OF_B),
    (pk.PLEBlock, {"num_task_experts": [0, 1], "num_shared_experts": [0, 1]}, NONE_OF_A),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), TOGETHER)
def test_gates_without_experts_are_refused(cls, arguments, message):
    check_refused(lambda: cls(**{**REQUIRED[cls], **arguments}), ValueError, message)


def test_models_with_the_longest_names_are_saved(tmp_path):
    """A character of the block's name has three bytes."""
    task, name = "a" * 128, "\u6f22" * 255
    heads = pk.TaskHeads([pk.BinaryHead(task)])
    model = chain(pk.CGCBlock(heads, [3], add_shared_gate=False, name=name), heads)
    twin = loaded(model, tmp_path)
    assert twin.get_layer(name).task_names == [task]
    assert_same(numpy_of(twin(features(2, 3))), numpy_of(model(features(2, 3))))


# Refused calls.

X, SYMBOL = features(4, 3), keras.Input((3,))
OF_ONE_TENSOR = {
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
@pytest.mark.parametrize(("make", "make_inputs", "message"), pairs(OF_ONE_TENSOR, BAD_INPUTS))
def test_a_first_call_with_bad_inputs_leaves_the_layer_usable(make, make_inputs, message):
    layer, inputs = make(), make_inputs()
    check_refused(lambda: layer(inputs), ValueError, message)
    layer(features(2, 5))
    assert layer.built


OF_LEVELS = {name: OF_ONE_TENSOR[name] for name in ("cgc", "cgc_copied", "ple", "mmoe")}
WIDTH = r"\(batch, \.\.\., 5\) that the block .*\. Received: inputs\['\w+'\]\.shape="
BAD_LATER_INPUTS = {
    "other_width": (lambda: features(2, 6), WIDTH + r"\(2, 6\)"),
    "symbolic_other_width": (lambda: keras.Input((6,)), WIDTH + r"\(None, 6\)"),
    "rank_1": (lambda: features(5), WIDTH + r"\(5,\)"),
    "list": (lambda: [features(2, 5)] * 2, r"a dict keyed by stream.*Received: .*inputs=\["),
}


@pytest.mark.parametrize(("make_inputs", "message", "make"), pairs(BAD_LATER_INPUTS, OF_LEVELS))
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
    check_refused(lambda: layer(inputs), ValueError, rf"inputs.* must .*{message}.*Received: in")


def level(**kwargs):
    return pk.CGCBlock(TASKS, [3], **kwargs)


def built_level():
    return built(level())


def with_input(x, **kwargs):
    """Return the call with an input."""
    return lambda layer: layer(x, **kwargs)


calling = operator.methodcaller
NEW = r"the block must be built.*Received: built=False"
CALLS = [
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
    (
        lambda: pk.SequentialBlock([keras.layers.Dense(3), bottom()]),
        with_input(X, return_gate_weights=True),
        r"must not be given, since no layer takes it.*Received: return_gate_weights=True",
    ),
    (
        lambda: pk.CGCBlock(["a"], keras.layers.Activation("relu")),
        with_input(streams(a=5, shared=4)),
        r"must have the same output width.*widths=\{'a/expert_0': 5, 'shared/expert_0': 4\}",
    ),
]
FLAG = {"return_gate_weights": "yes"}
WRONG_TYPES = [
    (level, with_input(X, **FLAG), "return_gate_weights must be True or False"),
    (lambda: pk.PLEBlock(2, TASKS, [3]), with_input(SYMBOL, **FLAG), "must be True or False"),
]


@pytest.mark.parametrize(
    ("make", "call", "message", "error"),
    [*((*row, ValueError) for row in CALLS), *((*row, TypeError) for row in WRONG_TYPES)],
)
def test_an_invalid_call_is_refused(make, call, message, error):
    layer = make()
    check_refused(lambda: call(layer), error, message)


def test_a_built_level_accepts_symbolic_inputs_of_unknown_width():
    block = built(level())
    assert block(keras.Input((None,)))["a"].shape == (None, 3)
