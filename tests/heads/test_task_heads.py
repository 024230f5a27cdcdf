"""All heads as one layer."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of
from tests.pairs import pairs


def test_each_head_predicts_from_its_own_task_s_features():
    heads = [pk.RegressionHead("b", units=2), pk.BinaryHead("a"), pk.RegressionHead("c")]
    layer = pk.TaskHeads(heads)
    inputs = {
        task: features(4, width, seed=width) for task, width in (("a", 2), ("b", 3), ("c", 5))
    }
    outputs = numpy_of(layer(inputs))
    assert_same(outputs, {head.task: numpy_of(head(inputs[head.task])) for head in heads})
    assert {task: x.shape for task, x in outputs.items()} == {"a": (4, 1), "b": (4, 2), "c": (4, 1)}


def test_task_names_keep_the_order_given():
    tasks = ["z", "a", "m_1", "10", "B-2"]
    assert pk.TaskHeads([pk.BinaryHead(task) for task in tasks]).task_names == tasks
    assert pk.TaskHeads({task: pk.BinaryHead(task) for task in tasks}).task_names == tasks


def test_heads_by_task_and_in_a_sequence_are_the_same():
    heads = [pk.BinaryHead("b"), pk.RegressionHead("a")]
    by_task = pk.TaskHeads({head.task: head for head in heads}, name="heads")
    assert by_task.get_config() == pk.TaskHeads(heads, name="heads").get_config()


def test_a_shared_stream_is_ignored():
    layer = pk.TaskHeads([pk.BinaryHead("a")])
    x = features(4, 3)
    alone = numpy_of(layer({"a": x}))
    assert_same(numpy_of(layer({"shared": features(4, 7), "a": x})), alone)
    symbolic = layer({"shared": keras.Input((7,)), "a": keras.Input((3,))})
    assert {task: x.shape for task, x in symbolic.items()} == {"a": (None, 1)}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["a"], r"missing: \['b'\], unknown: \[\].* Received: inputs=\{'a'\}"),
        (["a", "b", "c"], r"missing: \[\], unknown: \['c'\].* Received: inputs="),
        (["a", "B"], r"missing: \['b'\], unknown: \['B'\]"),
        (["shared"], r"missing: \['a', 'b'\]"),
    ],
)
@pytest.mark.parametrize("when", ["first", "later", "symbolic"])
def test_missing_and_extra_tasks_are_refused(keys, message, when):
    layer = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    if when == "later":
        layer({"a": features(4, 3), "b": features(4, 3)})
    make = (lambda: keras.Input((3,))) if when == "symbolic" else (lambda: features(4, 3))
    inputs = {key: make() for key in keys}
    with pytest.raises(ValueError, match=message):
        layer(inputs)


FORMS = {
    "names": lambda heads: heads.task_names,
    "task_heads": lambda heads: heads,
    "heads": lambda heads: [pk.BinaryHead("b"), pk.BinaryHead("a")],
    "heads_by_task": lambda heads: {"b": pk.BinaryHead("b"), "a": pk.BinaryHead("a")},
}
BLOCKS = {
    "cgc": lambda outputs: pk.CGCBlock(outputs, 3),
    "ple": lambda outputs: pk.PLEBlock(1, outputs, 3)[0],
    "mmoe": lambda outputs: pk.MMoEBlock(outputs, 3, 2),
    "shared_bottom": lambda outputs: pk.SharedBottomBlock(outputs, 3),
}


@pytest.mark.parametrize(("form", "block"), pairs(FORMS, BLOCKS))
def test_blocks_take_the_tasks_from_heads_in_any_form(form, block):
    heads = pk.TaskHeads([pk.BinaryHead("b"), pk.BinaryHead("a")])
    layer = block(form(heads))
    assert layer.task_names == ["b", "a"]
    assert layer.get_config()["outputs"] == ["b", "a"]
    assert set(heads(layer(features(4, 3)))) == {"a", "b"}
