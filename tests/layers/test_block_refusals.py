"""Invalid arguments of blocks."""

import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once
from tests.layers.blocks import BLOCKS
from tests.models import chain, loaded
from tests.pairs import pairs
from tests.refusals import BAD_NAMES, RULE, check_count, check_refused, count_table, table

pytestmark = once


@pytest.mark.parametrize(("name", "error", "received", "block"), pairs(BAD_NAMES, BLOCKS))
def test_every_block_refuses_invalid_task_names(block, name, error, received):
    shown = received.removeprefix("=")
    message = rf"{RULE}; invalid: {shown}\. Received: outputs=\['fine', {shown}\]$"
    check_refused(lambda: block(["fine", name]), error, message)


BAD_LAYER_NAMES = {
    "empty": "",
    "newline": "a\nb",
    "equals": "a=b",
    "dot": "a.b",
    "length": "a" * 256,
}


@pytest.mark.parametrize(("name", "block"), pairs(BAD_LAYER_NAMES, BLOCKS))
def test_every_block_refuses_names_that_logs_and_files_can_not_have(block, name):
    message = (
        "1 to 255 printable characters other than '=' and '.'. "
        f"Received: name={re.escape(repr(name))}$"
    )
    check_refused(lambda: block(["a"], name=name), ValueError, message)


def test_models_with_the_longest_names_are_saved(tmp_path):
    """A character of the block's name has three bytes."""
    task, name = "a" * 128, "\u6f22" * 255
    heads = pk.TaskHeads([pk.BinaryHead(task)])
    model = chain(pk.CGCBlock(heads, [3], add_shared_gate=False, name=name), heads)
    twin = loaded(model, tmp_path)
    assert twin.get_layer(name).task_names == [task]
    assert_same(numpy_of(twin(features(2, 3))), numpy_of(model(features(2, 3))))


def head_of(task):
    return pk.BinaryHead(task)


BAD_OUTPUTS = {
    "no_tasks": (list, ValueError, r"at least one task, and each once\. Received: outputs=\[\]"),
    "no_heads": (dict, ValueError, r"at least one task, and each once\. Received: outputs=\{\}"),
    "repeated": (
        lambda: ["a", "b", "a"],
        ValueError,
        r"once\. Received: outputs=\['a', 'b', 'a'\]",
    ),
    "repeated_heads": (
        lambda: [head_of("a"), head_of("a")],
        ValueError,
        r"once\. Received: outputs=\[<BinaryHead",
    ),
    "one_string": (lambda: "ab", TypeError, r"sequence of task names.*Received: outputs='ab'"),
    "bytes": (lambda: b"ab", TypeError, r"Received: outputs=b'ab'"),
    "set": (lambda: {"a"}, TypeError, r"sequence of task names.*Received: outputs=\{'a'\}"),
    "generator": (lambda: (x for x in "ab"), TypeError, r"Received: outputs=<generator"),
    "number": (lambda: 2, TypeError, r"sequence of task names.*Received: outputs=2"),
    "none": (lambda: None, TypeError, r"Received: outputs=None"),
    "one_head": (lambda: head_of("a"), TypeError, r"Received: outputs=<BinaryHead"),
    "wrong_head": (
        lambda: {"b": head_of("a")},
        ValueError,
        r"each task to its own head, but 'b' has <BinaryHead.*Received: outputs=\{'b': <Binary",
    ),
    "no_head": (
        lambda: {"a": 3},
        ValueError,
        r"each task to its own head, but 'a' has 3\. Received: outputs=\{'a': 3\}",
    ),
}


@pytest.mark.parametrize(("make", "error", "message", "block"), pairs(BAD_OUTPUTS, BLOCKS))
def test_every_block_refuses_invalid_outputs(block, make, error, message):
    outputs = make()
    check_refused(lambda: block(outputs), error, message)


COUNT_ARGUMENTS = {
    "num_layers": (lambda value: pk.PLEBlock(value, ["a"], 3), 1),
    "num_task_experts": (lambda value: pk.CGCBlock(["a"], 3, num_task_experts=value), 0),
    "num_task_experts_of_ple": (lambda value: pk.PLEBlock(2, ["a"], 3, value), 0),
    "num_shared_experts": (lambda value: pk.CGCBlock(["a"], 3, num_shared_experts=value), 0),
    "num_shared_experts_of_ple": (lambda value: pk.PLEBlock(2, ["a"], 3, 1, value), 0),
    "num_experts_of_mmoe": (lambda value: pk.MMoEBlock(["a"], 3, value), 1),
}


@pytest.mark.parametrize(("make", "name", "minimum"), count_table(COUNT_ARGUMENTS))
def test_invalid_counts_are_refused(make, name, minimum):
    check_count(make, name, minimum)


BAD_COUNTS_BY_TASK = {
    "missing": ({"a": 1}, ValueError, r"missing: \['b'\], unknown: \[\].*Received: .*\{'a'\}"),
    "extra": ({"a": 1, "b": 1, "c": 1}, ValueError, r"missing: \[\], unknown: \['c'\]"),
    "shared": ({"a": 1, "b": 1, "shared": 1}, ValueError, r"unknown: \['shared'\]"),
    "negative": ({"a": 1, "b": -1}, ValueError, r"Received: num_task_experts\['b'\]=-1"),
    "bool": ({"a": 1, "b": True}, TypeError, r"Received: num_task_experts\['b'\]=True"),
    "float": ({"a": 1.0, "b": 1}, TypeError, r"Received: num_task_experts\['a'\]=1\.0"),
}


@pytest.mark.parametrize(("counts", "error", "message"), table(BAD_COUNTS_BY_TASK))
@pytest.mark.parametrize("block", [BLOCKS["cgc"], BLOCKS["ple"]], ids=["cgc", "ple"])
def test_a_dict_of_counts_must_have_one_valid_count_per_task(block, counts, error, message):
    check_refused(lambda: block(["a", "b"], num_task_experts=counts), error, message)


A_LIST = r"must be an integer, or a list or tuple with an entry per level\. Received: "
BAD_COUNTS_BY_LEVEL = {
    "range": (
        {"num_task_experts": range(1, 3)},
        TypeError,
        A_LIST + r"num_task_experts=range\(1, 3\)$",
    ),
    "array": (
        {"num_shared_experts": np.array([1, 2])},
        TypeError,
        A_LIST + r"num_shared_experts=ndarray\(shape=\(2,\), dtype=",
    ),
    "tensor": (
        {"num_task_experts": keras.ops.convert_to_tensor([1, 2])},
        TypeError,
        A_LIST + r"num_task_experts=\w+\(shape=\(2,\), dtype=",
    ),
    "too_few": (
        {"num_task_experts": [1]},
        ValueError,
        r"one entry per level, 2 in total\. Received: num_task_experts=\[1\]$",
    ),
    "too_many": (
        {"num_shared_experts": (1, 2, 3)},
        ValueError,
        r"one entry per level, 2 in total\. Received: num_shared_experts=\(1, 2, 3\)$",
    ),
    "none": (
        {"num_task_experts": ()},
        ValueError,
        r"one entry per level, 2 in total\. Received: num_task_experts=\(\)$",
    ),
    "negative": (
        {"num_shared_experts": [1, -1]},
        ValueError,
        r"must be at least 0\. Received: num_shared_experts\[1\]=-1$",
    ),
    "dict_of_shared_experts": (
        {"num_shared_experts": [1, {"a": 1}]},
        TypeError,
        r"must be an integer\. Received: num_shared_experts\[1\]=\{'a': 1\}$",
    ),
    "nested_list": (
        {"num_task_experts": [1, [1, 1]]},
        TypeError,
        r"must be an integer\. Received: num_task_experts\[1\]=\[1, 1\]$",
    ),
    "missing_task": (
        {"num_task_experts": [{"a": 1}, 1]},
        ValueError,
        r"^num_task_experts\[0\] must have.*missing: \['b'\].*Received: num_task_experts\[0\]=",
    ),
    "dict_of_lists": (
        {"num_task_experts": {"a": [1, 1], "b": [1, 1]}},
        TypeError,
        r"must be an integer\. Received: num_task_experts\['a'\]=\[1, 1\]$",
    ),
    "no_experts_in_a_level": (
        {"num_task_experts": [0, 1], "num_shared_experts": [0, 1]},
        ValueError,
        r"every gate must have at least one expert, but 'a' has none\. Received: num_task_experts=",
    ),
}


@pytest.mark.parametrize(("counts", "error", "message"), table(BAD_COUNTS_BY_LEVEL))
def test_a_list_of_counts_must_have_one_valid_entry_per_level(counts, error, message):
    check_refused(lambda: pk.PLEBlock(2, ["a", "b"], 3, **counts), error, message)


@pytest.mark.parametrize("argument", ["num_task_experts", "num_shared_experts"])
def test_one_level_refuses_a_list_of_counts(argument):
    check_refused(
        lambda: pk.CGCBlock(["a"], 3, **{argument: [1]}),
        TypeError,
        rf"{argument} must be an integer\. Received: {argument}=\[1\]$",
    )


@pytest.mark.parametrize("counts", [0, {"a": 1, "b": 0}], ids=["for_all", "for_one"])
@pytest.mark.parametrize("block", [BLOCKS["cgc"], BLOCKS["ple"]], ids=["cgc", "ple"])
def test_a_gate_without_experts_is_refused(block, counts):
    gate = "a" if counts == 0 else "b"
    check_refused(
        lambda: block(["a", "b"], num_task_experts=counts, num_shared_experts=0),
        ValueError,
        rf"but '{gate}' has none\. Received: num_task_experts=\{{.*num_shared_experts=0$",
    )


BAD_ARGUMENTS = {
    "add_shared_gate_string": (
        lambda: pk.CGCBlock(["a"], 3, add_shared_gate="yes"),
        TypeError,
        r"add_shared_gate must be True or False\. Received: add_shared_gate='yes'$",
    ),
    **{
        f"enable_gate_weights_metrics_of_{name}": (
            lambda name=name: BLOCKS[name](["a"], enable_gate_weights_metrics=None),
            TypeError,
            r"enable_gate_weights_metrics must be True or False\. Received: enable_gate_w.*=None$",
        )
        for name in ("cgc", "ple", "mmoe")
    },
    "too_few_level_experts": (
        lambda: pk.PLEBlock(3, ["a"], [keras.layers.Dense(3), keras.layers.Dense(3)]),
        ValueError,
        r"one entry per level, 3 in total\. Received: expert_block=\[<Dense",
    ),
    "too_many_level_experts": (
        lambda: pk.PLEBlock(1, ["a"], (pk.ExpertBlock(3), pk.ExpertBlock(3))),
        ValueError,
        r"one entry per level, 1 in total\. Received: expert_block=\[<ExpertBlock",
    ),
    "no_layers": (
        lambda: pk.SequentialBlock([]),
        ValueError,
        r"layers must hold at least one layer\. Received: layers=\[\]$",
    ),
    "one_layer": (
        lambda: pk.SequentialBlock(keras.layers.Dense(3)),
        TypeError,
        r"layers must be a sequence of Keras layers\. Received: layers=<Dense",
    ),
    "layers_not_layers": (
        lambda: pk.SequentialBlock([keras.layers.Dense(3), len]),
        TypeError,
        r"layers must be a sequence of Keras layers\. Received: layers=\[<Dense",
    ),
    "layers_of_one_name": (
        lambda: pk.SequentialBlock([keras.layers.Dense(3, name="x") for _ in range(2)]),
        ValueError,
        r"layers must have different names\. Received: layers=\['x', 'x'\]$",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), table(BAD_ARGUMENTS))
def test_a_bad_argument_is_refused(make, error, message):
    check_refused(make, error, message)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pk.PLEBlock(2, ["a"], 3, add_shared_gate=True),
        lambda: pk.MMoEBlock(["a"], 3, 2, add_shared_gate=True),
    ],
)
def test_an_argument_of_a_level_alone_is_refused(make):
    with pytest.raises(TypeError, match="unexpected keyword argument 'add_shared_gate'"):
        make()
