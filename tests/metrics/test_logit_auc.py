"""`LogitAUC` against scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import ple_keras as pk
from ple_keras import LogitAUC
from tests.metrics.clicks import click_data
from tests.models import compiled, heads_alone


def test_logit_auc_is_accurate_for_probabilities_of_products():
    auc = LogitAUC()
    auc.update_state([0, 0, 1, 1], [1e-30, 4e-30, 2e-30, 9e-30])
    assert float(auc.result()) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("kwargs", [{}, {"curve": "PR"}])
@pytest.mark.parametrize("label", [0, 1])
def test_the_auc_of_one_class_is_nan(kwargs, label):
    auc = LogitAUC(**kwargs)
    auc.update_state([label, label], [0.3, 0.4])
    assert np.isnan(float(auc.result()))
    auc.update_state([1 - label], [0.3])
    assert np.isfinite(float(auc.result()))


def test_the_mean_auc_of_several_labels_is_nan_if_one_of_them_has_one_class():
    auc = LogitAUC(multi_label=True)
    auc.update_state([[0, 1], [1, 1]], [[0.3, 0.4], [0.5, 0.6]])
    assert np.isnan(float(auc.result()))
    auc.update_state([[0, 0]], [[0.1, 0.1]])
    assert float(auc.result()) == pytest.approx(1.0)


def test_logit_auc_refuses_logits():
    with pytest.raises(TypeError, match=r"from_logits can't be chosen here"):
        LogitAUC(from_logits=True)


@pytest.mark.parametrize(
    ("base_rate", "spread"), [(0.5, 0.2), (0.1, 1.0), (0.01, 3.0), (0.001, 0.2), (0.001, 3.0)]
)
def test_logit_auc_agrees_with_scikit_learn(base_rate, spread):
    labels, probabilities = click_data(base_rate, spread)
    auc = LogitAUC()
    for part in np.array_split(np.arange(len(labels)), 3):
        auc.update_state(labels[part][:, None], probabilities[part][:, None])
    assert float(auc.result()) == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


@pytest.mark.parametrize("base_rate", [0.5, 0.01])
def test_logit_auc_applies_sample_weights(base_rate):
    labels, probabilities = click_data(base_rate, 1.0)
    # Weights that change the area: positives that were predicted well count for less.
    weights = np.where(labels > 0, np.exp(-20 * probabilities), 1.0).astype("float32")
    auc = LogitAUC()
    auc.update_state(labels, probabilities, sample_weight=weights)
    expected = roc_auc_score(labels, probabilities, sample_weight=weights)
    assert abs(expected - roc_auc_score(labels, probabilities)) > 5e-3
    assert float(auc.result()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("dtype", "label_shape"), [("int32", (-1,)), ("float32", (-1, 1)), ("bool", (-1, 1))]
)
def test_logit_auc_accepts_labels_of_any_type_with_or_without_a_last_axis(dtype, label_shape):
    labels, probabilities = click_data(0.3, 1.0, size=2000)
    auc = LogitAUC()
    auc.update_state(labels.reshape(label_shape).astype(dtype), probabilities[:, None])
    assert float(auc.result()) == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


def test_reset_state_resets_logit_auc():
    labels, probabilities = click_data(0.3, 1.0, size=2000)
    auc = LogitAUC()
    auc.update_state(1 - labels, probabilities)
    auc.reset_state()
    auc.update_state(labels, probabilities)
    assert float(auc.result()) == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


@pytest.mark.parametrize("base_rate", [0.5, 0.001])
def test_logit_auc_inside_evaluate_agrees_with_scikit_learn(base_rate):
    click = pk.BinaryHead("click")
    heads = pk.TaskHeads([click, pk.RegressionHead("other")])
    model = compiled(heads_alone(heads, width=1))
    labels, probabilities = click_data(base_rate, 1.5)
    logits = np.log(probabilities) - np.log1p(-probabilities)
    click.set_weights([np.ones((1, 1)), np.zeros(1)])  # the identity
    y = {"click": labels, "other": np.zeros_like(labels)}
    logs = model.evaluate(logits[:, None], y, batch_size=8192, verbose=0, return_dict=True)
    assert logs["click_auc"] == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


def test_one_warning_names_the_tasks_whose_auc_is_nan():
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy"), pk.BinaryHead("share")])
    model = compiled(heads_alone(heads))
    both = np.repeat([0, 1], 4)  # one class in each batch
    valid = {"click": np.ones(8), "buy": np.array([1] * 4 + [np.nan] * 4), "share": both}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logs = model.fit(
            np.ones((8, 3)),
            {"click": both, "buy": np.zeros(8), "share": both},
            batch_size=4,
            shuffle=False,
            epochs=2,
            verbose=0,
            validation_data=(np.ones((8, 3)), valid),
        ).history
    assert np.isfinite(logs["click_auc"]).all()
    assert np.isnan([logs["val_click_auc"], logs["buy_auc"], logs["val_buy_auc"]]).all()
    found = [warning for warning in caught if "no positive or no negative" in str(warning.message)]
    assert sorted(str(warning.message)[:12] for warning in found) == [
        "'buy_auc' is",
        "'click_auc' ",
    ]
    assert {warning.filename for warning in found} == {__file__}
