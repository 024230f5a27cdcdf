"""All heads as one layer, which is also a mapping keyed by task."""

import collections

import keras
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once, streams
from tests.refusals import all_refused, check_refused, table

pytestmark = once


def test_heads_by_task_and_in_a_sequence_are_the_same_and_keep_their_order():
    tasks = ["z", "a", "m_1", "10", "B-2"]
    heads = pk.TaskHeads([pk.BinaryHead(task) for task in tasks], name="heads")
    by_task = pk.TaskHeads({task: pk.BinaryHead(task) for task in tasks}, name="heads")
    assert by_task.get_config() == heads.get_config()
    assert by_task.task_names == heads.task_names == tasks


def test_a_shared_stream_is_ignored():
    layer = pk.TaskHeads([pk.BinaryHead("a")])
    x = features(4, 3)
    alone = numpy_of(layer({"a": x}))
    assert_same(numpy_of(layer({"shared": features(4, 7), "a": x})), alone)
    symbolic = layer({"shared": keras.Input((7,)), "a": keras.Input((3,))})
    assert {task: x.shape for task, x in symbolic.items()} == {"a": (None, 1)}


# A mapping keyed by task

TASKS = ["both", "z", "a"]


def some_heads():
    return [pk.ProductHead("both", of=("z", "a")), pk.BinaryHead("z"), pk.BinaryHead("a", tower=2)]


def test_heads_are_found_by_task_in_the_order_given():
    given = some_heads()
    heads = pk.TaskHeads(given)
    by_task = dict(zip(TASKS, given))
    assert [heads[task] for task in TASKS] == given
    assert list(heads) == list(heads.keys()) == TASKS
    assert list(heads.values()) == given
    assert list(heads.items()) == list(by_task.items())
    assert dict(heads) == {**heads} == by_task
    assert len(heads) == 3
    assert "both" in heads
    assert "shared" not in heads
    assert 0 not in heads
    assert heads.task_names == ["z", "a"]  # a product has no features


@pytest.mark.parametrize("task", ["A", 0, None, slice(1)])
def test_an_unknown_task_is_a_key_error_that_names_the_tasks(task):
    with pytest.raises(KeyError) as caught:
        pk.TaskHeads(some_heads())[task]
    (message,) = caught.value.args
    assert message == f"task must be one of {TASKS}. Received: task={task!r}"


def test_keras_treats_the_layer_as_a_leaf():
    heads = pk.TaskHeads(some_heads())
    assert keras.tree.flatten({"x": [heads]}) == [heads]
    assert not isinstance(heads, collections.abc.Mapping | collections.abc.Sequence)

    class Holder(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.heads, self.others = heads, {"heads": heads}

    holder = Holder()
    assert holder.heads is holder.others["heads"] is heads
    assert [x for x in holder._flatten_layers() if isinstance(x, pk.TaskHeads)] == [heads]


FORMS = {
    "names": lambda heads: heads.task_names,
    "task_heads": lambda heads: heads,
    "heads": lambda heads: list(heads.values()),
    "heads_by_task": dict,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_blocks_take_the_tasks_with_features_from_heads_in_any_form(form):
    heads = pk.TaskHeads(some_heads())
    layer = pk.CGCBlock(form(heads), 3, add_shared_gate=False)
    assert layer.task_names == layer.get_config()["outputs"] == ["z", "a"]
    predictions = numpy_of(heads(layer(features(2, 4))))
    assert_same(predictions, {**predictions, "both": predictions["z"] * predictions["a"]})


# Refusals

A, B = pk.BinaryHead("a", name="x"), pk.BinaryHead("b", name="x")
SEQUENCE = r"heads must be a sequence or dict of at .*Received: heads="
BAD_ARGUMENTS = {
    "no_heads": ([], TypeError, r"at least one head.*Received: heads=\[\]"),
    "one_head": (A, TypeError, f"{SEQUENCE}<BinaryHead"),
    "layers": ([A, keras.layers.Dense(1)], TypeError, rf"{SEQUENCE}\[<BinaryHead.*<Dense"),
    "none": (None, TypeError, f"{SEQUENCE}None"),
    "tasks": ([A, pk.RegressionHead("a")], r"unique tasks\. Received: tasks=\['a', 'a'\]"),
    "names_of_heads": ([A, B], r"unique names\. Received: names=\['x', 'x'\]"),
    "val": ([A, pk.BinaryHead("val")], r"must not be 'val' or 'val_{task}', .*: tasks={"),
    "val_a": ([A, pk.BinaryHead("val_a")], r"must not be 'val' or 'val_{task}'"),
    "task_of_another_head": ({"b": A}, r"the head of the task .* 'b' has <BinaryHead"),
}


test_a_bad_argument_is_refused = all_refused(pk.TaskHeads, BAD_ARGUMENTS)


INPUTS = {
    "tensor": (lambda x: x, TypeError, r"must be a dict with keys among", "first"),
    "missing": (lambda x: {"a": x}, ValueError, r"missing: \['b'\], unknown: \[\]", "later"),
    "extra": (lambda x: dict.fromkeys("abc", x), ValueError, r"unknown: \['c'\]", "first"),
    "shared": (lambda x: {"shared": x}, ValueError, r"missing: \['a', 'b'\]", "later"),
    "width": (lambda x: dict.fromkeys("ab", keras.Input((4,))), ValueError, r"5\) that", "later"),
}


@pytest.mark.parametrize(("inputs", "error", "message", "when"), table(INPUTS))
def test_anything_but_a_dict_of_all_tasks_is_refused(inputs, error, message, when):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    if when == "later":
        heads(streams(a=5, b=5))
    check_refused(lambda: heads(inputs(features(2, 5))), error, f"{message}.*Received: inputs")
