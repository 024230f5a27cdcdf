"""Cosines between gradients, compared with those of finite differences."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of
from tests.inspection.conflicts import (
    assert_close,
    every_kind,
    labels,
    model_of,
    two_regression_heads,
)
from tests.refusals import NAN, table


def cosine(first, second):
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


def losses_of(model, heads, x, y):
    return np.array(list(numpy_of(heads.compute_losses(y, model(x), training=False)).values()))


def finite_differences(losses_at, values, step=0.01):
    """The gradient `(tasks, size)` of a function from an array to the tasks' losses."""
    columns = []
    for index in range(values.size):
        move = np.zeros_like(values)
        move.flat[index] = step
        columns.append((losses_at(values + move) - losses_at(values - move)) / (2 * step))
    return np.stack(columns, axis=-1)


def finite_differences_of_weight(model, heads, x, y, variable, index):
    """`finite_differences` for a variable at an index of its first axis."""
    before = numpy_of(variable)

    def losses_at(values):
        moved = before.copy()
        moved[index] = values
        variable.assign(moved)
        return losses_of(model, heads, x, y)

    found = finite_differences(losses_at, before[index])
    variable.assign(before)
    return found


def cosines_of(tasks, gradients):
    pairs = [(i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]
    return {(tasks[i], tasks[j]): cosine(gradients[i], gradients[j]) for i, j in pairs}


# In a stack of experts, normalizations are separate layers.
EXPERTS = {
    "stacked": (pk.ExpertBlock([3], activation="tanh", normalization="layer"), 2),
    "copied": (keras.layers.Dense(3, "tanh"), 0),
}


@pytest.mark.parametrize(("expert", "count"), table(EXPERTS))
def test_cosines_are_those_of_finite_differences(expert, count):
    heads = two_regression_heads()
    ple = pk.PLEBlock(2, heads, expert, num_shared_experts=2, name="ple")
    model = model_of(ple, heads, width=2)
    x, y = features(6, 2), labels("a", "b", rows=6)
    y["a"][::3] = y["b"][1::4] = NAN
    expected = {}
    for level, block in zip(("ple/0", "ple/1"), ple):
        stacks = [w for w in block.weights if w.path[:-2].endswith(("/kernel", "/bias"))]
        assert len(stacks) == count
        expected[level] = {}
        for i in range(2):
            own = [w for w in block.weights if f"expert-shared-{i}" in w.path]
            pieces = [(w, slice(None)) for w in own] + [(w, 2 + i) for w in stacks]
            found = [finite_differences_of_weight(model, heads, x, y, *piece) for piece in pieces]
            cosines = cosines_of(["a", "b"], np.concatenate(found, axis=1))
            expected[level][f"shared/expert_{i}"] = cosines
    assert_close(pk.gradient_conflict(model, x, y), expected, atol=0.01)


@every_kind
def test_experts_that_are_frozen_or_not_shared_have_no_cosines(expert):
    frozen = pk.CGCBlock(["a", "b"], expert(), name="frozen")
    own = pk.CGCBlock(["a", "b"], expert(), num_shared_experts=0, name="own")
    model = model_of(pk.SequentialBlock([frozen, own], name="row"), two_regression_heads())
    frozen.trainable = False
    found = pk.gradient_conflict(model, features(12, 4), labels("a", "b"))
    assert found == {"row/0": {}, "row/1": {}}
