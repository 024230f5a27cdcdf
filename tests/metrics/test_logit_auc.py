"""`LogitAUC`, compared with scikit-learn."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ple_keras import LogitAUC
from tests.metrics.clicks import click_data


def test_logit_auc_is_accurate_for_probabilities_of_products():
    auc = LogitAUC()
    auc.update_state([0, 0, 1, 1], [1e-30, 4e-30, 2e-30, 9e-30])
    assert float(auc.result()) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("floatx", ["float32", "float64"])
def test_logit_auc_is_1_for_certain_predictions(floatx):
    keras.config.set_floatx(floatx)
    try:
        auc = LogitAUC()
        auc.update_state(np.array([0, 0, 1, 1], floatx), np.array([0, 0, 1, 1], floatx))
        assert float(auc.result()) == 1
    finally:
        keras.config.set_floatx("float32")


def test_the_area_is_nan_for_one_class_and_predictions_that_are_nan():
    for label in (0, 1):
        auc = LogitAUC()
        auc.update_state([label, label], [0.3, 0.4])
        assert np.isnan(float(auc.result()))
        auc.update_state([1 - label], [0.1 if label else 0.5])
        assert float(auc.result()) == 1
        auc.update_state([label], [np.nan])
        assert np.isnan(float(auc.result()))
        auc.reset_state()
        auc.update_state([0, 1], [0.2, 0.1])
        assert float(auc.result()) == 0


def test_labels_between_0_and_1_count_as_both():
    y, p = np.float32([0, 0.25, 1, 0.5]), np.float32([0.1, 0.6, 0.4, 0.7])
    auc = LogitAUC()
    auc.update_state(y, p)
    both = np.repeat([1, 0], 4), np.tile(p, 2), np.concatenate([y, 1 - y])
    assert float(auc.result()) == pytest.approx(roc_auc_score(*both[:2], sample_weight=both[2]))


@pytest.mark.parametrize(
    ("base_rate", "spread"), [(0.5, 0.2), (0.01, 3.0), (0.001, 0.2), (0.001, 3.0)]
)
def test_logit_auc_agrees_with_scikit_learn(base_rate, spread):
    labels, probabilities = click_data(base_rate, spread)
    auc = LogitAUC()
    for part in np.array_split(np.arange(len(labels)), 3):
        auc.update_state(labels[part][:, None], probabilities[part][:, None])
    assert float(auc.result()) == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


def test_logit_auc_applies_sample_weights():
    labels, probabilities = click_data(0.01, 1.0)
    # Weights that change the area: positives with good predictions count for less.
    weights = np.where(labels > 0, np.exp(-20 * probabilities), 1.0).astype("float32")
    auc = LogitAUC()
    auc.update_state(labels, probabilities, sample_weight=weights)
    expected = roc_auc_score(labels, probabilities, sample_weight=weights)
    assert abs(expected - roc_auc_score(labels, probabilities)) > 5e-3
    assert float(auc.result()) == pytest.approx(expected, abs=1e-3)
