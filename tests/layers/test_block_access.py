"""Arguments, names, representation and layers of PLEBlock, MMoEBlock and SequentialBlock."""

import json
import typing

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras import _typing
from tests.helpers import assert_same, features, numpy_of, once
from tests.layers import reference
from tests.models import TASKS, chain, cloned, loaded
from tests.refusals import check_refused

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
    assert [x.compute_output_shape((2, 3))["buy"] for x in ple] == [(2, 5), (2, 6), (2, 4)]


@pytest.mark.parametrize("copied", [loaded, cloned])
def test_files_and_clones_keep_the_counts(copied, tmp_path):
    ple = pk.PLEBlock(3, TASKS, [3], [1, {"click": 2, "buy": 1}, 1], [0, 2, 0], name="ple")
    model = chain(ple)
    copy = copied(model, tmp_path)
    ple_copy = copy.get_layer("ple")
    assert [block.expert_names for block in ple_copy] == [block.expert_names for block in ple]
    assert ["shared" in block.gate_experts for block in ple_copy] == [True, False, False]
    copy.set_weights(model.get_weights())
    x = features(4, 3)
    assert_same(numpy_of(copy(keras.ops.convert_to_tensor(x))), reference.ple(ple, x)[0])


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
    gates = ["gate-click", "gate-buy"]
    experts = ["expert-click-0", "expert-buy-0", "expert-shared-0"]
    assert rows == ["stacked", "experts", *gates, "gate-shared", "copied", *experts, *gates]
