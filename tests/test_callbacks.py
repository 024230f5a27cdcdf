"""One score of several metrics, and schedules that are refused."""

import csv
import warnings

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT
from tests.joint_run import data, make_model


@pytest.fixture
def model():
    return make_model(None)


def fit(model, *callbacks, **kwargs):
    x, y = data()
    kwargs = {"validation_data": (x, y), "verbose": 0, **kwargs}
    return model.fit(x, y, callbacks=list(callbacks), **kwargs)


def test_the_score_is_the_weighted_sum_of_the_metrics(model):
    score = pk.MultiTaskScore({"val_click_auc": 1, "val_time_rmse": -0.5})
    history = fit(model, score, epochs=3).history
    expected = np.array(history["val_click_auc"]) - 0.5 * np.array(history["val_time_rmse"])
    np.testing.assert_allclose(history["val_mtl_score"], expected, rtol=1e-6)


def test_keras_s_own_callbacks_see_score_and_weights(model, tmp_path):
    score = pk.MultiTaskScore({"val_loss": -1.0})
    stop = keras.callbacks.EarlyStopping("val_mtl_score", mode="max", patience=1, min_delta=100)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5",
        "val_mtl_score",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model, pk.LossWeightDecay(0.5), score, stop, best, log, epochs=5).history
    assert len(history["val_mtl_score"]) == 2
    assert (tmp_path / "best.weights.h5").exists()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss_weight/click"]) for row in rows] == [1.0, 0.5]
    assert [float(row["val_mtl_score"]) for row in rows] == pytest.approx(history["val_mtl_score"])


def test_epochs_without_validation_have_no_score(model):
    score = pk.MultiTaskScore({"val_loss": 1.0}, name="mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, score, epochs=4, validation_freq=2).history
    assert history["mine"] == history["val_loss"]
    assert len(history["mine"]) == 2


def test_a_run_without_validation_is_told_so(model):
    with pytest.warns(UserWarning, match=r"no 'val_mtl_score': pass validation_data"):
        fit(model, pk.MultiTaskScore({"val_loss": 1.0}), validation_data=None)
    history = fit(model, pk.MultiTaskScore({"loss": 1.0}), validation_data=None).history
    assert history["val_mtl_score"] == history["loss"]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({}, ValueError, r"at least one metric\. Received: weights=\{\}"),
        (["val_loss"], TypeError, r"a dict by metric\. Received: weights=\['val_loss'\]"),
        ({"val_loss": "1"}, TypeError, r"a number\. Received: weights\['val_loss'\]='1'"),
        ({"val_loss": float("nan")}, ValueError, r"finite\. Received: weights\['val_loss'\]=nan"),
    ],
)
def test_scores_that_cannot_be_are_refused(weights, error, message):
    with pytest.raises(error, match=message):
        pk.MultiTaskScore(weights)


def test_a_score_of_an_unknown_metric_is_refused_after_the_first_epoch(model):
    with pytest.raises(ValueError, match=r"keys of the logs.*'val_click_auc'.*weights=\['val_au"):
        fit(model, pk.MultiTaskScore({"val_auc": 1.0, "val_loss": -1.0}))


@pytest.mark.parametrize(
    ("gamma", "error", "message"),
    [
        (-0.5, ValueError, r"gamma must be at least 0\. Received: gamma=-0\.5"),
        (float("inf"), ValueError, r"gamma must be finite\. Received: gamma=inf"),
        (float("nan"), ValueError, r"gamma must be finite\. Received: gamma=nan"),
        ("0.5", TypeError, r"gamma must be a number\. Received: gamma='0.5'"),
        (None, TypeError, r"Received: gamma=None"),
        ({"click": -1}, ValueError, r"Received: gamma\['click'\]=-1"),
        ({"click": True}, TypeError, r"Received: gamma\['click'\]=True"),
    ],
)
def test_gammas_that_cannot_be_are_refused(gamma, error, message):
    with pytest.raises(error, match=message):
        pk.LossWeightDecay(gamma)


def test_a_gamma_of_an_unknown_task_is_refused(model):
    with pytest.raises(ValueError, match=r"gamma must have keys among \['click', 'time'\].*'x'"):
        fit(model, pk.LossWeightDecay({"x": 0.5}))


def test_a_task_without_a_gamma_keeps_its_weight(model):
    history = fit(model, pk.LossWeightDecay({"click": 0.5}), epochs=2).history
    assert history["loss_weight/click"] == [1.0, 0.5]
    assert history["loss_weight/time"] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("multiplier", "error", "message"),
    [
        (-1, ValueError, r"fn\('click', 0\) must be at least 0.*Received: fn\('click', 0\)=-1"),
        (float("nan"), ValueError, r"must be finite\. Received: fn\('click', 0\)=nan"),
        (None, TypeError, r"must be a number\. Received: fn\('click', 0\)=None"),
    ],
)
def test_multipliers_that_cannot_be_are_refused(model, multiplier, error, message):
    with pytest.raises(error, match=message):
        fit(model, pk.LossWeightSchedule(lambda task, epoch: multiplier))


def test_multipliers_of_an_unknown_task_are_refused(model):
    heads = next(layer for layer in model.layers if isinstance(layer, pk.TaskHeads))
    message = r"multipliers must have keys among \['click', 'time'\]; not known: \['x'\]"
    with pytest.raises(ValueError, match=message):
        heads.multiply_loss_weights({"x": 1.0})


def test_a_gamma_above_1_that_overflows_is_refused(model):
    with pytest.raises(ValueError, match=r"must be finite\. Received: fn\('click', 400\)=inf"):
        fit(model, pk.LossWeightDecay(10.0), initial_epoch=400, epochs=401)


def test_a_schedule_must_be_a_function():
    with pytest.raises(TypeError, match=r"fn must be a function.*Received: fn=0\.5"):
        pk.LossWeightSchedule(0.5)


@pytest.mark.parametrize("callback", [pk.LossWeightLogger(), pk.LossWeightDecay(0.5)])
def test_a_model_without_heads_is_refused(callback):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=QUICK_JIT)
    with pytest.raises(ValueError, match=r"needs a model with a TaskHeads.*Received: model="):
        model.fit(np.ones((2, 3)), np.ones((2, 1)), callbacks=[callback], verbose=0)


def test_a_task_without_a_loss_has_no_weight():
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.Head("score")])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, heads({"click": inputs, "score": inputs}))
    model.compile(**heads.compile_kwargs(optimizer="sgd", jit_compile=QUICK_JIT))
    y = {"click": np.ones(4), "score": np.ones((4, 1))}
    callback = pk.LossWeightDecay(0.5)
    history = model.fit(np.ones((4, 3)), y, verbose=0, callbacks=[callback]).history
    assert [key for key in history if key.startswith("loss_weight")] == ["loss_weight/click"]
