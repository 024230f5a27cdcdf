"""The gain of a multi-task model over single-task models."""

import pytest

import ple_keras as pk
from tests.helpers import once

pytestmark = once


def test_a_gain_is_positive_where_the_multi_task_model_is_better():
    multi = {"click_auc": 0.75, "time_rmse": 2.0, "val_buy_binary_crossentropy": 0.5, "loss": 1.0}
    single = {"click_auc": 0.5, "time_rmse": 3.0, "val_buy_binary_crossentropy": 0.25}
    assert pk.mtl_gain(multi, single) == {
        "click_auc": 0.25,
        "time_rmse": 1.0,
        "val_buy_binary_crossentropy": -0.25,
    }


def test_the_total_losses_are_left_out():
    multi = {"loss": 3.0, "val_loss": 3.0, "click_loss": 1.0, "click_auc": 0.75}
    single = {"loss": 2.0, "val_loss": 2.0, "click_loss": 2.0, "click_auc": 0.5}
    assert pk.mtl_gain(multi, single) == {"click_loss": 1.0, "click_auc": 0.25}
    with pytest.raises(ValueError, match=r"common keys with a direction"):
        pk.mtl_gain({"loss": 3.0}, {"loss": 2.0})


UNDIRECTED = [
    "val_click_gauc_share",
    "click_calibration",
    "val_click_calibration_1",
    "loss_weight/click",
    "gate/ple/0/click/entropy",
    "val_gate/ple/0/click/max",
    "val_mtl_score",
    "learning_rate",
]


@pytest.mark.parametrize("key", UNDIRECTED)
def test_keys_without_a_direction_are_left_out(key):
    logs = {key: 0.5, "val_click_gauc": 0.75}
    assert pk.mtl_gain(logs, {**logs, "val_click_gauc": 0.5}) == {"val_click_gauc": 0.25}
    assert pk.mtl_gain({key: 0.75}, {key: 0.5}, signs={key: 1}) == {key: 0.25}
    with pytest.raises(ValueError, match=r"common keys with a direction.*Received: multi=\{'"):
        pk.mtl_gain({key: 0.75}, {key: 0.5})


@pytest.mark.parametrize(
    ("key", "sign"),
    [
        ("auc", 1),
        ("val_a_auc_1", 1),
        ("a_sparse_categorical_accuracy", 1),
        ("AUC", 1),
        ("error_rate_auc", 1),
        ("a_loss", -1),
        ("auc_loss", -1),
        ("mean_squared_error", -1),
        ("a_weighted_binary_crossentropy", -1),
        ("ece", -1),
        ("a_f1", 1),
        ("val_a_gauc", 1),
        ("a_normalized_entropy", -1),
        ("buy_recall_at_5", 1),
        ("ndcg@10", 1),
    ],
)
def test_the_last_word_of_a_key_determines_the_sign(key, sign):
    assert pk.mtl_gain({key: 3.0}, {key: 1.0}) == {key: 2.0 * sign}


def test_given_signs_override_the_last_word():
    assert pk.mtl_gain({"x": 3, "auc": 3}, {"x": 1, "auc": 1}, signs={"x": -1, "auc": -1}) == {
        "x": -2,
        "auc": -2,
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"x": 1}, {"x": 1}), ValueError, r"for 'x'\. Received: signs=\{\}"),
        (
            ({"auc": 1}, {"x": 1}),
            ValueError,
            r"common keys.*, but single has \['x'\].*multi=\{'auc'",
        ),
        (({"auc": 1}, {"auc": 1}, {"x": 1}), ValueError, r"not known: \['x'\].*Received: signs="),
        (({"auc": 1}, {"auc": 1}, {"auc": 2}), ValueError, r"1 or -1\. Received: signs\['auc'\]=2"),
        (({"a_entropy": 1},) * 2, ValueError, r"signs must"),
        (({"loss_cosine_similarity": 1}, {"loss_cosine_similarity": 1}), ValueError, r"signs must"),
        (([1], {"auc": 1}), TypeError, r"multi must be a dict.*Received: multi=\[1\]"),
        (({"auc": 1}, {1: 1}), TypeError, r"single must be a dict.*Received: single=\{1: 1\}"),
        (({"auc": None}, {"auc": 1}), TypeError, r"Received: multi\['auc'\]=None"),
        (({"auc": 1}, {"auc": float("nan")}), ValueError, r"Received: single\['auc'\]=nan"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pk.mtl_gain(*arguments)
