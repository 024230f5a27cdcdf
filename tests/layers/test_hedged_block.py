"""HedgedBlock: branches of features for each task."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, streams

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


def test_custom_branches_read_the_inputs_unchanged():
    """A branch can have a feature network for integer columns."""

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
