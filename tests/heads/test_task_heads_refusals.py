"""Heads and inputs that TaskHeads refuses."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import once, streams
from tests.refusals import check_refused, table

BAD_ARGUMENTS = {
    "no_heads_by_task": (lambda: pk.TaskHeads({}), ValueError, r"Received: heads=\{\}$"),
    "no_heads": (lambda: pk.TaskHeads([]), ValueError, r"at least one head\. Received: heads=\[\]"),
    "one_head": (
        lambda: pk.TaskHeads(pk.BinaryHead("a")),
        TypeError,
        r"heads must be a sequence of heads.*Received: heads=<BinaryHead",
    ),
    "heads_of_others": (
        lambda: pk.TaskHeads(pk.TaskHeads([pk.BinaryHead("a")])),
        TypeError,
        r"heads must not be a TaskHeads, which owns its heads: use it itself, or create new .*"
        r"Received: heads=<TaskHeads",
    ),
    "heads_not_heads": (
        lambda: pk.TaskHeads([pk.BinaryHead("a"), keras.layers.Dense(1)]),
        TypeError,
        r"heads must be a sequence of heads.*Received: heads=\[<BinaryHead.*<Dense",
    ),
    "heads_names": (
        lambda: pk.TaskHeads(["a", "b"]),
        TypeError,
        r"heads must be a sequence of heads.*Received: heads=\['a', 'b'\]",
    ),
    "heads_none": (lambda: pk.TaskHeads(None), TypeError, r"Received: heads=None"),
    "heads_of_one_task": (
        lambda: pk.TaskHeads([pk.BinaryHead("a"), pk.RegressionHead("a", name="b")]),
        ValueError,
        r"heads must have unique tasks, not \['a', 'a'\]\. Received: heads=\[<Binary",
    ),
    "heads_of_one_name": (
        lambda: pk.TaskHeads([pk.BinaryHead("a", name="x"), pk.BinaryHead("b", name="x")]),
        ValueError,
        r"heads must have unique layer names, not \['x', 'x'\]\. Received: heads=",
    ),
    "heads_under_another_task": (
        lambda: pk.TaskHeads({"b": pk.BinaryHead("a")}),
        ValueError,
        r"map each task to its own head, but 'b' has <BinaryHead.*Received: heads=\{'b'",
    ),
}


@once
@pytest.mark.parametrize(("make", "error", "message"), table(BAD_ARGUMENTS))
def test_a_bad_argument_is_refused(make, error, message):
    check_refused(make, error, message)


@pytest.mark.parametrize("is_built", [False, True], ids=["first_call", "later_call"])
@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        pytest.param(np.ones((2, 5), "float32"), TypeError, r"must be a dict by task", id="tensor"),
        pytest.param([np.ones((2, 5))] * 2, TypeError, r"must be a dict by task", id="list"),
        pytest.param(streams(a=5), ValueError, r"missing: \['b'\]", id="missing"),
        pytest.param(streams(a=5, b=5, c=5), ValueError, r"unknown: \['c'\]", id="extra"),
    ],
)
def test_task_heads_refuse_all_but_a_dict_by_task(is_built, inputs, error, message):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    if is_built:
        heads(streams(a=5, b=5))
    check_refused(lambda: heads(inputs), error, f"{message}.*Received: inputs=")


METHODS = {
    "tasks_named_val": (
        lambda: pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("val")]),
        lambda heads: heads.compile_kwargs(),
        r"a task 'val', .*such as val_loss.*Received: tasks=\['a', 'val'\]$",
    ),
    "tasks_of_one_name_but_for_val": (
        lambda: pk.TaskHeads([pk.BinaryHead("val_x"), pk.BinaryHead("x")]),
        lambda heads: heads.compile_kwargs(),
        r"a task 'val_x', .*such as val_x_loss.*Received: tasks=\['val_x', 'x'\]$",
    ),
}


@pytest.mark.parametrize(("make", "call", "message"), table(METHODS))
def test_tasks_with_ambiguous_log_keys_are_refused(make, call, message):
    layer = make()
    check_refused(lambda: call(layer), ValueError, message)
