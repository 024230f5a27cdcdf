"""Cosines between gradients for different models, losses and data formats."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of
from tests.inspection.conflicts import (
    assert_close,
    flat,
    labels,
    model_of,
    one_level,
    two_regression_heads,
)
from tests.models import compiled
from tests.refusals import NAN


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
