"""HedgedBlock: branches of features for each task."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once, streams
from tests.refusals import check_refused, table

TASKS = ["click", "buy"]


def test_default_branches_read_their_own_streams():
    block = pk.HedgedBlock(TASKS, pk.ExpertBlock([4, 3], activation="tanh"))  # no dead units
    inputs = streams(click=5, buy=4, shared=6)
    outputs = numpy_of(block(inputs))
    np.testing.assert_array_equal(outputs["click"]["shared"], outputs["buy"]["shared"])
    for stream in inputs:
        other = numpy_of(block({**inputs, stream: inputs[stream] + 1}))
        changed = {
            (task, branch)
            for task in TASKS
            for branch in ("own", "shared")
            if not np.array_equal(other[task][branch], outputs[task][branch])
        }
        read = {(task, "shared") for task in TASKS} if stream == "shared" else {(stream, "own")}
        assert changed == read


def test_outputs_by_branch_are_in_alphabetical_order():
    """A file refers to outputs by position, and PyTorch does not sort a dict in a dict."""
    block = pk.HedgedBlock(["b", "a"], [3])
    specs = block(keras.Input((4,)))
    outputs = block(features(2, 4))
    for by_branch in (
        *specs.values(),
        *outputs.values(),
        *block.compute_output_shape((2, 4)).values(),
    ):
        assert list(by_branch) == ["own", "shared"]


def test_a_branch_that_takes_one_tensor_refuses_streams():
    bottom = pk.SharedBottomBlock(["a"], [3])
    hedged = pk.HedgedBlock(["a"], branches={"ple": pk.PLEBlock(1, ["a"], [3]), "bottom": bottom})
    message = r"inputs must be one tensor, not a dict\. Received: inputs=\{'a', 'shared'\}"
    streams = {"a": features(2, 4), "shared": features(2, 4)}
    check_refused(lambda: hedged(streams), ValueError, message)


def test_custom_branches_read_the_inputs_unchanged():
    """A branch may have a feature network for integer columns."""

    def network():
        inputs = {"item": keras.Input((), dtype="int32"), "price": keras.Input((2,))}
        item = keras.layers.Embedding(9, 3)(inputs["item"])
        return keras.Model(inputs, keras.layers.Concatenate()([item, inputs["price"]]))

    def branch(name):
        return pk.SequentialBlock([network(), pk.SharedBottomBlock(TASKS, 4)], name=name)

    block = pk.HedgedBlock(TASKS, branches={"1st": branch("a"), "2nd": branch("b")})
    x = {"item": np.array([1, 2, 8], "int32"), "price": features(3, 2)}
    outputs = numpy_of(block(x))
    assert outputs["buy"]["2nd"].shape == (3, 4)
    expected = numpy_of(block["1st"](x))
    np.testing.assert_array_equal(outputs["click"]["1st"], expected["click"])
    with pytest.raises(KeyError, match=r"branch must be one of \['1st', '2nd'\]"):
        block["3rd"]


def pair(**branches):
    return {"a": pk.SharedBottomBlock(TASKS, 3, name="x"), **branches}


REFUSED = {
    "nothing": ({}, ValueError, "Exactly one of expert_block and branches"),
    "both": ({"expert_block": 3, "branches": pair()}, ValueError, "Exactly one of"),
    "one_branch": ({"branches": pair()}, ValueError, "two branches or more"),
    "name": (
        {"branches": {**pair(), "a/b": pk.SharedBottomBlock(TASKS, 3)}},
        ValueError,
        "names of at most 128 ASCII letters",
    ),
    "layer_names": (
        {"branches": pair(b=pk.SharedBottomBlock(TASKS, 3, name="x"))},
        ValueError,
        r"different names, not \['x', 'x'\]",
    ),
    "list": ({"branches": [1, 2]}, TypeError, "branches must be a dict of Keras layers"),
    "no_layer": ({"branches": pair(b=3)}, TypeError, "branches must be a dict of Keras layers"),
    "units": ({"expert_block": 0}, ValueError, "expert_block"),
}


@once
@pytest.mark.parametrize(("arguments", "error", "message"), table(REFUSED))
def test_arguments_are_refused(arguments, error, message):
    check_refused(lambda: pk.HedgedBlock(TASKS, **arguments), error, message)


@once
def test_blocks_without_features_for_every_task_are_refused():
    block = pk.HedgedBlock(TASKS, branches=pair(b=keras.layers.Dense(3)))
    check_refused(
        lambda: block(features(2, 3)), ValueError, "branches must map the inputs to a dict"
    )


@once
def test_streams_must_be_those_of_the_tasks():
    block = pk.HedgedBlock(TASKS, 3)
    check_refused(
        lambda: block(streams(click=2, shared=3)), ValueError, "inputs must have exactly the keys"
    )
