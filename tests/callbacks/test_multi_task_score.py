"""A weighted sum of metrics as one score."""

import csv

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.callbacks.fitting import fit_validated
from tests.helpers import QUICK, every_backend, once
from tests.models import click_and_time, clicks_and_times
from tests.refusals import all_refused

pytestmark = once


@pytest.fixture
def model():
    return click_and_time(None, **QUICK)


def test_the_score_is_the_weighted_sum_of_the_metrics(model):
    score = pk.MultiTaskScore({"val_click_auc": 1, "val_time_rmse": -0.5})
    history = fit_validated(model, score, epochs=3).history
    expected = np.array(history["val_click_auc"]) - 0.5 * np.array(history["val_time_rmse"])
    np.testing.assert_allclose(history["val_mtl_score"], expected, rtol=1e-6)


@every_backend
def test_callbacks_of_keras_read_the_score_and_the_loss_weights(model, tmp_path):
    of_groups = pk.GroupedAUC(clicks_and_times(), np.arange(12) // 6, tasks=["click"])
    score = pk.MultiTaskScore({"val_loss": -1.0, "val_click_gauc": 0.5})
    stop = keras.callbacks.EarlyStopping("val_mtl_score", mode="max", patience=1, min_delta=100)
    options = {"mode": "max", "save_best_only": True, "save_weights_only": True}
    path = tmp_path / "best.weights.h5"
    best = keras.callbacks.ModelCheckpoint(path, "val_mtl_score", **options)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit_validated(
        model, pk.LossWeightDecay(0.5), of_groups, score, stop, best, log, epochs=5
    ).history
    assert len(history["val_mtl_score"]) == 2
    assert path.exists()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss_weight/click"]) for row in rows] == [1.0, 0.5]
    assert [float(row["val_mtl_score"]) for row in rows] == pytest.approx(history["val_mtl_score"])


@pytest.mark.filterwarnings("error::UserWarning")
def test_epochs_without_validation_have_no_score(model):
    """Even if GroupedAUC has logged keys of validation data."""
    of_groups = pk.GroupedAUC(clicks_and_times(), np.arange(12) // 6, tasks=["click"])
    score = pk.MultiTaskScore({"val_loss": 1.0, "val_click_gauc": 0.0}, name="mine")
    history = fit_validated(model, of_groups, score, epochs=4, validation_freq=2).history
    assert history["mine"] == history["val_loss"]
    assert (len(history["mine"]), len(history["val_click_gauc"])) == (2, 4)


def test_training_metrics_need_no_validation(model):
    history = fit_validated(model, pk.MultiTaskScore({"loss": 1.0}), validation_data=None).history
    assert history["val_mtl_score"] == history["loss"]


REFUSED = {
    "empty": ({}, TypeError, r"at least one metric\. Received: weights=\{\}"),
    "list": (["val_loss"], TypeError, r"must be a dict .*\. Received: weights=\['val_loss'\]"),
    "text": ({"val_loss": "1"}, TypeError, r"a number\. Received: weights\['val_loss'\]='1'"),
    "nan": ({"val_loss": float("nan")}, r"finite\. Received: weights\['val.*=nan"),
}


test_wrong_weights_are_refused = all_refused(pk.MultiTaskScore, REFUSED)


def test_an_unknown_metric_is_refused_after_the_first_epoch(model):
    with pytest.raises(ValueError, match=r"keys of the logs.*'val_click_auc'.*weights=\['val_au"):
        fit_validated(model, pk.MultiTaskScore({"val_auc": 1.0, "val_loss": -1.0}))
