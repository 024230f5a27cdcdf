"""The gain of a multi-task model over single-task models."""

import inspect

import keras
import pytest

import ple_keras as pk
from tests.helpers import once
from tests.refusals import all_refused

pytestmark = once


def test_a_gain_is_positive_where_the_multi_task_model_is_better():
    """The total losses, and keys of one model alone, are left out."""
    multi = {"loss": 3.0, "val_loss": 3.0, "click_loss": 1.0, "click_auc": 0.75, "time_rmse": 2.0}
    single = {"loss": 2.0, "val_loss": 2.0, "click_auc": 0.5, "time_rmse": 3.0, "buy_auc": 0.5}
    assert pk.mtl_gain(multi, single) == {"click_auc": 0.25, "time_rmse": 1.0}
    with pytest.raises(ValueError, match=r"common keys of metrics"):
        pk.mtl_gain({"loss": 3.0}, {"loss": 2.0})


UNDIRECTED = [
    *("val_click_gauc_share", "click_calibration", "val_click_calibration_1"),
    *("loss_weight/click", "gate/ple/0/click/entropy", "val_gate/ple/0/click/max"),
    *("hedge/click/own", "hedge/click/own_loss"),
    *("val_mtl_score", "learning_rate"),
]


@pytest.mark.parametrize("key", UNDIRECTED)
def test_keys_without_a_direction_are_left_out(key):
    logs = {key: 0.5, "val_click_gauc": 0.75}
    assert pk.mtl_gain(logs, {**logs, "val_click_gauc": 0.5}) == {"val_click_gauc": 0.25}
    assert pk.mtl_gain({key: 0.75}, {key: 0.5}, lower_is_better={key: False}) == {key: 0.25}
    with pytest.raises(ValueError, match=r"common keys of metrics.*Received: multi=\{'"):
        pk.mtl_gain({key: 0.75}, {key: 0.5})


HIGHER = ["auc", "val_a_auc_1", "a_sparse_categorical_accuracy", "AUC", "error_rate_auc"]
HIGHER += ["a_f1_score", "val_a_gauc", "val_rank_ndcg", "rank_mean_reciprocal_rank"]
LOWER = ["a_loss", "auc_loss", "mean_squared_error", "a_weighted_binary_crossentropy", "a_MSE"]
LOWER += ["expected_calibration_error", "a_normalized_entropy", "val_a_log_cosh", "huber"]
LOWER += ["binary_focal_crossentropy", "a_bce", "kl_divergence", "mape", "a_hinge"]


@pytest.mark.parametrize("key", HIGHER + LOWER)
def test_the_name_at_the_end_of_a_key_determines_the_direction(key):
    assert pk.mtl_gain({key: 3.0}, {key: 1.0}) == {key: 2.0 if key in HIGHER else -2.0}


UNNAMED = {"Metric", "Mean", "Sum", "MeanMetricWrapper"}  # of any quantity
UNNAMED |= {f"{sign}{kind}" for sign in ("True", "False") for kind in ("Positives", "Negatives")}
UNNAMED |= {"CosineSimilarity"}  # higher is better, but not for the loss of this name
ARGUMENTS = {
    "PrecisionAtRecall": [0.5],
    "RecallAtPrecision": [0.5],
    "SensitivityAtSpecificity": [0.5],
    "SpecificityAtSensitivity": [0.5],
    "MeanIoU": [2],
    "OneHotMeanIoU": [2],
    "IoU": [2, [0]],
    "OneHotIoU": [2, [0]],
    "BinaryIoU": [[0]],
}


def test_the_directions_of_the_metrics_of_keras_are_known():
    for name, cls in inspect.getmembers(keras.metrics, inspect.isclass):
        if name not in UNNAMED:
            metric = cls(*ARGUMENTS.get(name, []))
            sign = {"up": 1, "down": -1}[metric._direction]
            key = f"click_{metric.name}"
            assert pk.mtl_gain({key: 3.0}, {key: 1.0}) == {key: 2.0 * sign}, name


def test_given_directions_override_the_name():
    multi, single = {"x": 3, "y": 3, "auc": 3}, {"x": 1, "y": 1, "auc": 1}
    given = {"x": True, "y": False, "auc": True}
    assert pk.mtl_gain(multi, single, lower_is_better=given) == {"x": -2, "y": 2, "auc": -2}


REFUSED = {
    "unknown": (({"x": 1}, {"x": 1}), ValueError, r"for 'x', whose.*lower_is_better=\{\}"),
    "not_common": (({"auc": 1}, {"x": 1}), ValueError, r"common keys.*, but single has \['x'\]"),
    "given": (({"auc": 1}, {"auc": 1}, {"x": True}), ValueError, r"known: \['x'\].*lower_is_"),
    "flag": (({"auc": 1}, {"auc": 1}, {"auc": -1}), TypeError, r"True or False\. .*\['auc'\]=-1"),
    "entropy": (({"a_entropy": 1},) * 2, ValueError, r"'a_entropy', whose direction is unknown"),
    "recall": (({"a_recall_at_5": 1},) * 2, ValueError, r"for 'a_recall_at_5', whose direction"),
    "cosine": (({"loss_cosine_similarity": 1},) * 2, ValueError, "'loss_cosine_similarity', wh"),
    "none": (({"auc": None}, {"auc": 1}), TypeError, r"Received: multi\['auc'\]=None"),
    "nan": (({"auc": 1}, {"auc": float("nan")}), ValueError, r"Received: single\['auc'\]=nan"),
}


test_invalid_arguments_are_refused = all_refused(lambda arguments: pk.mtl_gain(*arguments), REFUSED)
