"""The heads' metrics against scikit-learn and NumPy."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import ple_keras as pk
from ple_keras.metrics.logit_auc import LogitAUC
from ple_keras.metrics.loss_mean import LossMean
from tests.helpers import QUICK_JIT, features


def click_data(base_rate, spread, size=40_000, seed=0):
    """Labels with the base rate, and calibrated probabilities whose logits have the spread."""
    rng = np.random.default_rng(seed)
    logits = np.log(base_rate / (1 - base_rate)) + spread * rng.normal(size=size)
    probabilities = 1 / (1 + np.exp(-logits))
    labels = (rng.uniform(size=size) < probabilities).astype("float32")
    return labels, probabilities.astype("float32")


def test_logit_auc_tells_probabilities_of_products_apart():
    auc = LogitAUC()
    auc.update_state([0, 0, 1, 1], [1e-30, 4e-30, 2e-30, 9e-30])
    assert float(auc.result()) == pytest.approx(0.75, abs=0.01)


def test_logit_auc_refuses_logits():
    with pytest.raises(TypeError, match=r"from_logits can't be chosen here"):
        LogitAUC(from_logits=True)


@pytest.mark.parametrize("base_rate", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_logit_auc_agrees_with_scikit_learn(base_rate, spread):
    labels, probabilities = click_data(base_rate, spread)
    auc = LogitAUC()
    for part in np.array_split(np.arange(len(labels)), 3):
        auc.update_state(labels[part][:, None], probabilities[part][:, None])
    assert float(auc.result()) == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


@pytest.mark.parametrize("base_rate", [0.5, 0.01])
def test_logit_auc_weighs_examples(base_rate):
    labels, probabilities = click_data(base_rate, 1.0)
    # Weights that change the area: positives that were predicted well count for less.
    weights = np.where(labels > 0, np.exp(-20 * probabilities), 1.0).astype("float32")
    auc = LogitAUC()
    auc.update_state(labels, probabilities, sample_weight=weights)
    expected = roc_auc_score(labels, probabilities, sample_weight=weights)
    assert abs(expected - roc_auc_score(labels, probabilities)) > 5e-3
    assert float(auc.result()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
@pytest.mark.parametrize("label_shape", [(-1,), (-1, 1)])
def test_logit_auc_takes_labels_of_any_type_with_or_without_a_last_axis(dtype, label_shape):
    labels, probabilities = click_data(0.3, 1.0, size=2000)
    auc = LogitAUC()
    auc.update_state(labels.reshape(label_shape).astype(dtype), probabilities[:, None])
    assert float(auc.result()) == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


def test_logit_auc_starts_anew_after_reset():
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
    inputs = keras.Input((1,))
    model = keras.Model(inputs, heads({"click": inputs, "other": inputs}))
    model.compile(**heads.compile_kwargs(jit_compile=QUICK_JIT))
    labels, probabilities = click_data(base_rate, 1.5)
    logits = np.log(probabilities) - np.log1p(-probabilities)
    click.set_weights([np.ones((1, 1)), np.zeros(1)])  # the identity
    y = {"click": labels, "other": np.zeros_like(labels)}
    logs = model.evaluate(logits[:, None], y, batch_size=8192, verbose=0, return_dict=True)
    assert logs["click_auc"] == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-3)


def test_certain_predictions_give_finite_metrics():
    labels = np.float32([0, 0, 1, 1])
    for metric, expected in ((LogitAUC(), 1.0), (LossMean("binary_crossentropy"), 0.0)):
        metric.update_state(labels[:, None], labels[:, None])
        assert float(metric.result()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("label_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_mean_of_a_loss_agrees_with_numpy(label_shape, dtype, is_weighted):
    labels, probabilities = click_data(0.3, 1.0, size=1000)
    weights = np.abs(features(1000)) if is_weighted else None
    metric = LossMean(keras.losses.BinaryCrossentropy())
    for part in np.array_split(np.arange(1000), 3):
        metric.update_state(
            labels[part].reshape(label_shape).astype(dtype),
            probabilities[part][:, None],
            sample_weight=None if weights is None else weights[part],
        )
    p = np.float64(probabilities)
    losses = -np.where(labels > 0, np.log(p), np.log1p(-p))
    expected = np.average(losses, weights=weights)
    assert float(metric.result()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "metric",
    [
        LogitAUC(),
        LogitAUC(num_thresholds=50, name="area"),
        LogitAUC(curve="PR"),
        LossMean("binary_crossentropy"),
        LossMean(keras.losses.BinaryCrossentropy(label_smoothing=0.1), name="entropy"),
        pk.MaskedMetric("binary_accuracy", missing_label=-1),
        pk.MaskedMetric(LogitAUC(curve="PR")),
    ],
    ids=["auc", "auc_arguments", "auc_pr", "loss", "loss_arguments", "masked", "masked_metric"],
)
def test_metrics_survive_their_config(metric):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    labels, probabilities = click_data(0.3, 1.0, size=500)
    for each in (metric, copy):
        each.reset_state()
        each.update_state(labels[:, None], probabilities[:, None])
    assert float(copy.result()) == float(metric.result())
