"""TaskHeads as a mapping by task."""

import collections
import copy

import keras
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of
from tests.models import heads_alone, heads_of

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
    assert list(reversed(heads)) == TASKS[::-1]
    assert heads.get("a") is by_task["a"]
    assert heads.get("shared") is None
    assert heads.get("shared", "no head") == "no head"
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


def test_a_layer_is_true_also_before_it_has_heads():
    assert pk.TaskHeads(some_heads())
    assert pk.TaskHeads.__new__(pk.TaskHeads)


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


def test_a_summary_shows_every_head():
    heads = pk.TaskHeads(some_heads())
    model = heads_alone(heads)
    assert list(heads.layers) == list(heads.values())
    lines = []
    model.summary(expand_nested=True, print_fn=lines.append)
    places = ["".join(lines).index(head.name) for head in heads.values()]
    assert places == sorted(places)


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
