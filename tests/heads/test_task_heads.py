"""All heads as one layer, which is a mapping by task too."""

import collections
import copy

import keras
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once, streams
from tests.models import heads_alone, heads_of
from tests.pairs import pairs
from tests.refusals import check_refused, table


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


# A mapping by task

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


def test_keras_takes_the_layer_for_a_leaf():
    heads = pk.TaskHeads(some_heads())
    assert not keras.tree.is_nested(heads)
    assert keras.tree.flatten({"x": [heads]}) == [heads]
    assert keras.tree.map_structure(lambda leaf: leaf is heads, (heads,)) == (True,)
    assert not isinstance(heads, collections.abc.Mapping | collections.abc.Sequence)

    class Holder(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.heads, self.others = heads, {"heads": heads}

    holder = Holder()
    assert holder.heads is holder.others["heads"] is heads
    assert [x for x in holder._flatten_layers() if isinstance(x, pk.TaskHeads)] == [heads]


COPIES = {
    "deepcopy": copy.deepcopy,
    "clone": keras.models.clone_model,
    "json": lambda model: keras.models.model_from_json(model.to_json()),
}


@pytest.mark.parametrize("copied", list(COPIES.values()), ids=list(COPIES))
def test_copies_have_their_own_heads_by_task(copied):
    model = heads_alone(pk.TaskHeads(some_heads()))
    heads, copies = heads_of(model), heads_of(copied(model))
    assert list(copies) == TASKS
    for task, head in copies.items():
        assert type(head) is type(heads[task])
        assert head is not heads[task]
        assert [w.path for w in head.weights] == [w.path for w in heads[task].weights]


@pytest.mark.parametrize("outputs", [lambda heads: heads, dict], ids=["heads", "dict"])
def test_blocks_read_the_tasks_with_features(outputs):
    heads = pk.TaskHeads(some_heads())
    block = pk.CGCBlock(outputs(heads), 3, add_shared_gate=False)
    assert block.task_names == ["z", "a"]
    predictions = numpy_of(heads(block(features(2, 4))))
    assert_same(predictions, {**predictions, "both": predictions["z"] * predictions["a"]})


# Refusals

BAD_ARGUMENTS = {
    "no_heads_by_task": (lambda: pk.TaskHeads({}), ValueError, r"Received: heads=\{\}$"),
    "no_heads": (lambda: pk.TaskHeads([]), TypeError, r"at least one, or.*Received: heads=\[\]"),
    "one_head": (
        lambda: pk.TaskHeads(pk.BinaryHead("a")),
        TypeError,
        r"heads must be a sequence of heads.*Received: heads=<BinaryHead",
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
        r"heads must have unique names, not \['x', 'x'\]\. Received: heads=",
    ),
    "task_named_val": (
        lambda: pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("val")]),
        ValueError,
        r"a task 'val', .*such as val_loss.*Received: tasks=\['a', 'val'\]$",
    ),
    "tasks_of_one_name_but_for_val": (
        lambda: pk.TaskHeads([pk.BinaryHead("val_x"), pk.BinaryHead("x")]),
        ValueError,
        r"a task 'val_x', .*such as val_x_loss.*Received: tasks=\['val_x', 'x'\]$",
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


INPUTS = {
    "tensor": (lambda x: x, TypeError, r"must be a dict by task"),
    "list": (lambda x: [x] * 2, TypeError, r"must be a dict by task"),
    "missing": (
        lambda x: {"a": x},
        ValueError,
        r"missing: \['b'\], unknown: \[\]",
    ),
    "extra": (lambda x: dict.fromkeys("abc", x), ValueError, r"missing: \[\], unknown: \['c'\]"),
    "another": (lambda x: {"a": x, "B": x}, ValueError, r"missing: \['b'\], unknown: \['B'\]"),
    "shared": (lambda x: {"shared": x}, ValueError, r"missing: \['a', 'b'\]"),
}


@pytest.mark.parametrize("when", ["first", "later", "symbolic"])
@pytest.mark.parametrize(("inputs", "error", "message"), table(INPUTS))
def test_all_but_a_dict_of_all_tasks_is_refused(inputs, error, message, when):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    if when == "later":
        heads(streams(a=5, b=5))
    x = keras.Input((5,)) if when == "symbolic" else features(2, 5)
    check_refused(lambda: heads(inputs(x)), error, f"{message}.*Received: inputs=")
