"""The gain of a multi-task model over single-task models."""

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
    given = {"x": True, "y": False, "click_auc": True}
    multi, single = {"x": 3, "y": 3, "click_auc": 3}, {"x": 1, "y": 1, "click_auc": 1}
    assert pk.mtl_gain(multi, single, lower_is_better=given) == {"x": -2, "y": 2, "click_auc": -2}


@pytest.mark.parametrize("key", ["val_click_gauc_share", "gate/ple/0/click/max", "learning_rate"])
def test_keys_without_a_direction_are_left_out(key):
    logs = {key: 0.5, "val_click_gauc": 0.75}
    assert pk.mtl_gain(logs, {**logs, "val_click_gauc": 0.5}) == {"val_click_gauc": 0.25}
    with pytest.raises(ValueError, match=r"common metrics.*Received: multi=\{'"):
        pk.mtl_gain({key: 0.75}, {key: 0.5})


HIGHER = ["auc", "val_a_auc_1", "a_sparse_categorical_accuracy", "a_f1_score", "val_rank_ndcg"]
LOWER = ["auc_loss", "a_MSE", "a_weighted_binary_crossentropy", "a_normalized_entropy", "huber"]


@pytest.mark.parametrize("key", HIGHER + LOWER)
def test_the_name_at_the_end_of_a_key_determines_the_direction(key):
    assert pk.mtl_gain({key: 3.0}, {key: 1.0}) == {key: 2.0 if key in HIGHER else -2.0}


REFUSED = {
    "unknown": ({"x": 1}, {"x": 1}, r"'x', whose.*given=\{\}"),
    "not_common": ({"auc": 1}, {"x": 1}, "must have common metrics"),
    "flag": ({"auc": 1}, {"auc": 1}, {"auc": -1}, TypeError, r"True or False\. .*\['auc'\]=-1"),
    "nan": ({"auc": 1}, {"auc": float("nan")}, r"Received: single\['auc'\]=nan"),
}


test_invalid_arguments_are_refused = all_refused(pk.mtl_gain, REFUSED)
