"""Cosines between gradients, compared with gradients computed by hand or finite differences.

For different models, losses and data formats.
"""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of
from tests.inspection.conflicts import (
    assert_close,
    every_kind,
    flat,
    labels,
    model_of,
    one_level,
    two_regression_heads,
)
from tests.models import compiled
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


def test_product_and_multiclass_heads_have_cosines():
    heads = pk.TaskHeads(
        [
            pk.ProductHead("both", of=["click", "buy"]),
            pk.BinaryHead("click"),
            pk.MulticlassHead("kind", num_classes=3),
            pk.BinaryHead("buy", missing_label=-1),
        ]
    )
    block = pk.MMoEBlock(heads, keras.layers.Dense(3), 1, name="mmoe")
    model = model_of(block, heads, width=3)
    x, rng = features(6, 3), np.random.default_rng(0)
    y = {task: rng.integers(0, 2, 6) for task in heads}
    y["buy"][::2] = -1
    found = pk.gradient_conflict(model, x, y)
    weights = [w for w in block.trainable_weights if "expert" in w.path]
    gradients = [finite_differences_of_weight(model, heads, x, y, w, slice(None)) for w in weights]
    expected = cosines_of(["both", "click", "kind", "buy"], np.concatenate(gradients, axis=1))
    assert_close(found, {"mmoe": {"shared/expert_0": expected}}, atol=0.01)


@every_kind
def test_experts_that_are_frozen_or_not_shared_have_no_cosines(expert):
    frozen = pk.CGCBlock(["a", "b"], expert(), name="frozen")
    own = pk.CGCBlock(["a", "b"], expert(), num_shared_experts=0, name="own")
    model = model_of(pk.SequentialBlock([frozen, own], name="row"), two_regression_heads())
    frozen.trainable = False
    found = pk.gradient_conflict(model, features(12, 4), labels("a", "b"))
    assert found == {"row/0": {}, "row/1": {}}


def test_cosines_are_averaged_over_the_batches_with_labels():
    model = model_of(one_level(2), two_regression_heads())
    x, y = features(12, 4), labels("a", "b")
    y["b"][4:8] = NAN
    rows = [slice(start, start + 4) for start in (0, 4, 8)]
    batches = [(x[part], {task: of[part] for task, of in y.items()}) for part in rows]
    single = [flat(pk.gradient_conflict(model, *batches[i])) for i in range(3)]
    assert np.isnan(list(single[1].values())).all()
    for found in (pk.gradient_conflict(model, x, y, 4), pk.gradient_conflict(model, batches)):
        for key, value in flat(found).items():
            assert value == pytest.approx((single[0][key] + single[2][key]) / 2, abs=1e-6)


def test_without_a_batch_size_arrays_are_one_batch():
    model = model_of(one_level(), two_regression_heads())
    x, y = features(1500, 4), labels("a", "b", rows=1500)
    whole = pk.gradient_conflict(model, x, y)
    assert_close(whole, pk.gradient_conflict(model, x, y, batch_size=1500), atol=1e-9)
    halves = pk.gradient_conflict(model, x, y, batch_size=750)
    assert abs(next(iter(flat(halves).values())) - next(iter(flat(whole).values()))) > 1e-6


def stateful_model():
    """A model with dropout, batch normalization, gate statistics and regularization."""
    heads = pk.TaskHeads(
        [pk.RegressionHead("a", tower=pk.ExpertBlock([3], dropout=0.5)), pk.BinaryHead("b")]
    )
    expert = pk.ExpertBlock([3], normalization="batch", dropout=0.5, activation="tanh")
    ple = pk.PLEBlock(
        2,
        heads,
        expert,
        enable_gate_weights_metrics=True,
        gate_kwargs={"dropout": 0.5, "balance_regularizer": 0.1},
        name="ple",
    )
    return compiled(model_of(ple, heads))


def test_weights_and_statistics_do_not_change():
    model = stateful_model()
    x, y = features(8, 4), {"a": features(8), "b": np.arange(8) % 2}
    before = [numpy_of(w) for w in model.variables]
    first = pk.gradient_conflict(model, x, y)
    assert_close(pk.gradient_conflict(model, x, y), first, atol=1e-9)
    np.testing.assert_equal([*map(numpy_of, model.variables)], before)
    assert np.isfinite(list(flat(first).values())).all()


@pytest.mark.parametrize("weighting", [None, "uncertainty"])
def test_loss_weights_do_not_change_the_cosines(weighting):
    found = []
    for loss_weight in (1.0, 7.0):
        layers = [pk.RegressionHead("a", loss_weight=loss_weight), pk.BinaryHead("b")]
        heads = pk.TaskHeads(layers, loss_weighting=weighting)
        model = compiled(model_of(one_level(), heads))
        heads.multiply_loss_weights({"b": loss_weight})
        for w in heads.trainable_weights:
            if w.path.endswith("log_variances"):
                w.assign([loss_weight, -loss_weight])
        y = {**labels("a"), "b": np.arange(12) % 2}
        found.append(pk.gradient_conflict(model, features(12, 4), y))
    assert_close(*found)


def test_small_gradients_do_not_underflow_in_float16():
    found = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        expert = pk.ExpertBlock([3], activation="tanh")
        model = model_of(pk.MMoEBlock(["a", "b"], expert, 2, name="mmoe"), two_regression_heads())
        for w in model.weights:
            if w.path.endswith("_head/projection/kernel"):
                w.assign(0.001 * w)
        found.append(pk.gradient_conflict(model, features(4096, 4), labels("a", "b", rows=4096)))
    assert_close(*found, atol=0.01)
