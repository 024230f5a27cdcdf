"""Cosines between gradients, compared with gradients computed by hand or finite differences.

For different models, losses and data formats.
"""

import numpy as np

import ple_keras as pk
from tests.helpers import features, numpy_of
from tests.inspection.conflicts import (
    assert_close,
    every_kind,
    labels,
    model_of,
    two_regression_heads,
)
from tests.refusals import NAN


def cosine(first, second):
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


def weight(model, end):
    (found,) = [w for w in model.weights if w.path.endswith(end)]
    return np.float64(numpy_of(found))


def kernels(block, width):
    """Kernel and bias of each linear expert, from its outputs for 0 and unit vectors."""
    points = np.concatenate([np.zeros((1, width)), np.eye(width)]).astype("float32")
    outputs = {
        name: np.float64(out) for name, out in numpy_of(block.expert_outputs(points)).items()
    }
    return {name: (out[1:] - out[0], out[0]) for name, out in outputs.items()}


def gradients_by_hand(model, block, task, x, y):
    """The gradients of one task's mean squared error: `{expert: vector}`."""
    gate, head = weight(model, f"gate-{task}/projection/kernel"), f"{task}_head/projection/"
    kernel, bias = weight(model, f"{head}kernel")[:, 0], weight(model, f"{head}bias")
    experts = kernels(block, x.shape[-1])
    names = block.gate_experts[task]
    weights = np.exp(x @ gate)
    weights /= weights.sum(axis=-1, keepdims=True)
    parts = np.stack([(x @ experts[n][0] + experts[n][1]) @ kernel for n in names], axis=-1)
    mixed = (weights * parts).sum(axis=-1, keepdims=True)
    has_label = np.isfinite(y)
    error = np.where(has_label, 2 * (mixed[:, 0] + bias - y) / has_label.sum(), 0)[:, None]
    found = {}
    for i, name in enumerate(names):
        of_output = error * weights[:, [i]] * kernel
        found[name] = np.concatenate([(x.T @ of_output).ravel(), of_output.sum(axis=0)])
    return found


@every_kind
def test_cosines_are_those_of_the_gradients_computed_by_hand(expert):
    block = pk.CGCBlock(["a", "b"], expert(), num_shared_experts=2, add_shared_gate=False, name="c")
    model = model_of(block, two_regression_heads())
    x, y = features(12, 4), labels("a", "b")
    y["a"][::3], y["b"][1::4] = NAN, NAN
    a, b = (gradients_by_hand(model, block, task, np.float64(x), y[task]) for task in y)
    shared = ["shared/expert_0", "shared/expert_1"]
    expected = {"c": {expert: {("a", "b"): cosine(a[expert], b[expert])} for expert in shared}}
    assert_close(pk.gradient_conflict(model, x, y), expected)


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


def test_cosines_of_two_levels_are_those_of_finite_differences():
    """With stacked experts, whose normalizations are separate layers."""
    heads = two_regression_heads()
    expert = pk.ExpertBlock([3], activation="tanh", normalization="layer")
    ple = pk.PLEBlock(2, heads, expert, name="ple")
    model = model_of(ple, heads, width=2)
    x, y = features(6, 2), labels("a", "b", rows=6)
    expected = {}
    for level, block in zip(("ple/0", "ple/1"), ple):
        own = [w for w in block.weights if "expert-shared-0" in w.path]
        stacks = [w for w in block.weights if w.path[:-2].endswith(("/kernel", "/bias"))]
        assert (len(own), len(stacks)) == (2, 2)
        pieces = [(w, slice(None)) for w in own] + [(w, 2) for w in stacks]
        found = [finite_differences_of_weight(model, heads, x, y, *piece) for piece in pieces]
        expected[level] = {"shared/expert_0": cosines_of(["a", "b"], np.concatenate(found, axis=1))}
    assert_close(pk.gradient_conflict(model, x, y), expected, atol=0.01)


@every_kind
def test_experts_that_are_frozen_or_not_shared_have_no_cosines(expert):
    frozen = pk.CGCBlock(["a", "b"], expert(), name="frozen")
    own = pk.CGCBlock(["a", "b"], expert(), num_shared_experts=0, name="own")
    model = model_of(pk.SequentialBlock([frozen, own], name="row"), two_regression_heads())
    frozen.trainable = False
    found = pk.gradient_conflict(model, features(12, 4), labels("a", "b"))
    assert found == {"row/0": {}, "row/1": {}}
