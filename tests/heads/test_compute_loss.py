"""`TaskHeads.compute_loss` and `compute_losses`: the training loss for custom loops."""

import contextlib
import functools
import gc
import weakref

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once
from tests.models import compiled, heads_alone
from tests.refusals import all_refused, check_refused

IS_JAX = keras.backend.backend() == "jax"
ROWS = 12
X = features(ROWS, 3)
HAS_LABEL = np.arange(ROWS) % 3 > 0
CLICKS = (np.arange(ROWS) % 2).astype("float32")
Y = {
    "click": CLICKS,
    "buy": np.where(HAS_LABEL, 1 - CLICKS, np.nan),
    "both": np.zeros(ROWS, "int32"),
    "time": np.where(HAS_LABEL, X[:, 1], -1)[:, None],
    "kind": np.arange(ROWS) % 3,
}
WEIGHTS = {task: np.linspace(0.5, 2, ROWS) * (i + 1) for i, task in enumerate(Y)}


def heads_of_every_kind(loss_weighting):
    both = pk.ProductHead("both", of=("click", "buy"), loss_weight=0.5)
    click, buy = pk.BinaryHead("click"), pk.BinaryHead("buy", pos_weight=3.0)
    options = {"missing_label": -1, "reduction": "sum_over_batch_size", "loss_weight": 2.0}
    time = pk.RegressionHead("time", **options)
    kind = pk.MulticlassHead("kind", num_classes=3, class_weight=[1.0, 0.0, 2.5])
    return pk.TaskHeads([both, click, buy, pk.Head("score"), time, kind], loss_weighting)


@pytest.mark.parametrize("loss_weighting", [pytest.param(None, marks=once), "uncertainty"])
def test_the_losses_are_those_of_keras(loss_weighting):
    """Which tests of training and of heads compare with NumPy."""
    heads = heads_of_every_kind(loss_weighting)
    model = compiled(heads_alone(heads))
    predictions = model(X)
    heads.multiply_loss_weights({"time": 0.25, "buy": 3.0})
    if loss_weighting:
        heads._log_variances.assign([0.5, -0.25, 1.0, 0.75, -0.5])
    reported = model.test_on_batch(X, Y, sample_weight=WEIGHTS, return_dict=True)
    losses = numpy_of(heads.compute_losses(Y, predictions, WEIGHTS))
    assert [*losses] == heads.trained_tasks
    assert losses == pytest.approx({t: float(reported[f"{t}_loss"]) for t in losses}, rel=1e-5)
    for loss in (
        heads.compute_loss(Y, {**predictions, "gate": None}, WEIGHTS),
        model.compute_loss(y=Y, y_pred=predictions, sample_weight=WEIGHTS),
    ):
        assert loss.shape == ()
        assert float(numpy_of(loss)) == pytest.approx(float(reported["loss"]), rel=1e-5)
    if not loss_weighting:
        weights = {"both": 0.5, "click": 1.0, "buy": 3.0, "time": 2.0 * 0.25, "kind": 1.0}
        total = sum(weights[task] * loss for task, loss in losses.items())
        assert float(reported["loss"]) == pytest.approx(total, rel=1e-5)


def two_heads(**kwargs):
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")], **kwargs)
    return heads, heads({"click": X, "time": X})


def two_labels(**labels):
    return {"click": CLICKS, "time": np.full(ROWS, np.nan), **labels}


@pytest.mark.parametrize("loss_weighting", [None, "uncertainty"])
def test_a_loss_of_no_rows_is_a_scalar_0(loss_weighting):
    heads, _ = two_heads(loss_weighting=loss_weighting)
    y_pred = heads({"click": X[:0], "time": X[:0]})
    y = {"click": np.zeros(0, "int32"), "time": np.zeros((0, 1))}
    for weights in (None, {"click": np.zeros(0)}):
        loss = heads.compute_loss(y, y_pred, weights)
        assert loss.shape == ()
        assert float(numpy_of(loss)) == 0


def test_an_infinite_loss_with_weight_0_adds_nothing():
    heads, y_pred = two_heads()
    heads.multiply_loss_weights({"time": 0.0})
    losses = [
        float(numpy_of(heads.compute_loss(two_labels(time=np.full(ROWS, time)), y_pred)))
        for time in (1e30, np.nan)
    ]
    assert losses[0] == losses[1] > 0


def test_predictions_are_not_kept():
    heads, predictions = two_heads()
    kept = weakref.ref(predictions["click"])
    loss = heads.compute_loss(two_labels(), predictions)
    with pytest.raises(ValueError, match="y_true"):  # the second task fails
        heads.compute_loss(two_labels(time=np.zeros((ROWS, 2))), predictions)
    del predictions, loss
    gc.collect()
    assert kept() is None


CALLS = {
    "y_array": ({"y": CLICKS}, TypeError, r"y must be a dict with keys among \['click', 't"),
    "y_missing": ({"y": {"click": CLICKS}}, ValueError, r"missing: \['time'\], .*: y=\{'click'\}$"),
    "y_shape": ({"y": two_labels(time=CLICKS[:4])}, ValueError, r"y_true of 'time' .*=\(4,\)"),
    "y_none": ({"y": two_labels(click=None)}, TypeError, "y_true of 'click' .*: y_true=None$"),
    "y_pred_missing": ({"y_pred": {"click": CLICKS}}, ValueError, r"\['time'\].*: y_pred=\{'cl"),
    "weights_length": (
        *({"sample_weight": {"click": np.ones(ROWS - 1)}}, ValueError),
        r"sample_weight of 'click' must have a shape \(12,\) or \(12, 1\)\. .*=\(11,\)$",
    ),
    "weights_array": ({"sample_weight": CLICKS}, TypeError, "sample_weight must be a dict"),
}


def call(arguments):
    heads, predictions = two_heads()
    return heads.compute_loss(**{"y": two_labels(), "y_pred": predictions, **arguments})


test_wrong_arguments_are_refused = all_refused(call, CALLS)


def test_heads_that_are_not_built_or_have_no_loss_are_refused():
    heads = pk.TaskHeads([pk.Head("score")])
    check_refused(lambda: heads.compute_loss({}, {}), ValueError, "must be built .*built=False")
    predictions = heads({"score": X})
    check_refused(
        lambda: heads.compute_loss({}, predictions),
        ValueError,
        r"built with a loss\. Received: built=True, trained=\[\]$",
    )


@pytest.mark.skipif(not IS_JAX, reason="only JAX reads variables as constants of a trace")
def test_on_jax_learned_weights_need_their_values_in_a_trace():
    import jax

    heads, y_pred = two_heads(loss_weighting="uncertainty")
    values = [variable.value for variable in heads.trainable_variables]
    y = two_labels(time=X[:, 1])

    def loss(values, scope=contextlib.nullcontext):
        with scope(list(zip(heads.trainable_variables, values))):
            predictions, _ = heads.stateless_call(
                values, heads.non_trainable_variables, {"click": X, "time": X}
            )
            return heads.compute_loss(y, predictions)

    for transform in (jax.grad, jax.jit):
        with pytest.raises(ValueError, match=r"constants of a JAX trace.*Received: no scope"):
            transform(loss)(values)
    found = jax.jit(functools.partial(loss, scope=keras.StatelessScope))(values)
    assert float(found) == pytest.approx(float(heads.compute_loss(y, y_pred)), rel=1e-6)


def test_a_loss_without_the_mean_of_the_labels_is_refused():
    heads = pk.TaskHeads([pk.RegressionHead("a", standardize=True), pk.BinaryHead("b")])
    predictions, y = heads({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))}), np.arange(2.0)
    for compute in (heads.compute_loss, heads.compute_losses):
        with pytest.raises(ValueError, match=r"'a' has standardize=True.*Call adapt\(y\)"):
            compute({"a": y, "b": y}, predictions)
    heads.adapt({"a": y, "b": y})
    assert np.isfinite(
        float(heads.compute_loss({"a": y, "b": y}, heads(dict.fromkeys("ab", np.zeros((2, 3))))))
    )
