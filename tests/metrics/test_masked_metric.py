"""Metrics over the labeled examples, compared with the same metric on only these examples."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once
from tests.pairs import fewer, pairs
from tests.refusals import all_refused, check_refused


def mean_gap(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


METRICS = {
    "mae": ("mae", 1),
    "function": (mean_gap, 1),
    "auc": (keras.metrics.AUC(), 1),
    "r2": (keras.metrics.R2Score(), 1),
    "f1": (keras.metrics.F1Score(threshold=0.5), 1),
    "top_k": (keras.metrics.SparseTopKCategoricalAccuracy(k=2), 3),
    "cosine": (keras.metrics.CosineSimilarity(), 1),
    "calibration": (pk.Calibration(), 1),
}


SETTINGS = {"flat": (False, (40,)), "weighted": (True, (40, 1)), "weighted_flat": (True, (40,))}


@pytest.mark.parametrize(("metric", "width", "is_weighted", "shape"), pairs(METRICS, SETTINGS))
def test_any_metric_covers_only_the_labeled_examples(metric, width, is_weighted, shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(2, width), (40, 1)).astype("float32")
    predictions = rng.uniform(size=(40, width)).astype("float32")
    weights = rng.uniform(0.5, 2, 40).astype("float32") if is_weighted else None
    kept = rng.permutation(40) < 20
    masked = pk.MaskedMetric(metric, missing_label=-1)
    plain = pk.MaskedMetric(metric).metric
    y = np.where(kept[:, None], labels, [[-1], [np.nan]] * 20).astype("float32").reshape(shape)
    masked.reset_state()
    for part in (slice(0, 20), slice(20, 40)):
        masked.update_state(y[part], predictions[part], None if weights is None else weights[part])
    actual = numpy_of(masked.result())
    plain.reset_state()
    plain.update_state(labels[kept], predictions[kept], None if weights is None else weights[kept])
    np.testing.assert_allclose(actual, numpy_of(plain.result()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["auc", "mse"])
def test_a_metric_of_sequences_is_over_the_labeled_positions(metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (6, 5, 1)).astype("float32")
    predictions = rng.uniform(size=(6, 5, 1)).astype("float32")
    kept = rng.uniform(size=(6, 5)) < 0.5
    metric = keras.metrics.AUC() if metric == "auc" else metric
    masked, flat = pk.MaskedMetric(metric), pk.MaskedMetric(metric)
    masked.update_state(np.where(kept[..., None], labels, np.nan), predictions)
    expected = float(masked.result())
    flat.reset_state()
    flat.update_state(labels[kept], predictions[kept])
    assert float(flat.result()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", ["mse", pk.Calibration()])
def test_a_nan_weight_of_an_example_without_a_label_is_ignored(metric):
    metric = pk.MaskedMetric(metric)
    metric.update_state(np.float32([1, np.nan]), np.ones((2, 1)), np.float32([2, np.nan]))
    assert np.isfinite(float(metric.result()))


@once
def test_a_masked_metric_has_the_name_and_state_of_its_metric():
    inner = keras.metrics.AUC(name="roc")
    metric = pk.MaskedMetric(inner)
    assert metric.name == "roc"
    assert pk.MaskedMetric(inner, name="mine").name == "mine"
    assert metric.variables == inner.variables
    metric.update_state([0, 1, np.nan], [[0.1], [0.2], [0.3]])
    assert float(metric.result()) > 0.9
    metric.reset_state()
    metric.update_state([1, 0, np.nan], [[0.1], [0.2], [0.3]])
    assert float(metric.result()) < 0.1


REFUSED = {
    "metric": ("nope", r"metric must be known to Keras.*Received: metric='nope'"),
    "number": (3, r"Received: metric=3"),
    "missing_label": ("mae", "none", TypeError, "missing_label must be a number"),
}


test_invalid_arguments_are_refused = all_refused(pk.MaskedMetric, REFUSED)


@once
def test_a_metric_with_one_number_for_the_batch_is_refused():
    metric = pk.MaskedMetric(lambda y, p: keras.ops.mean(keras.ops.abs(y - p)), name="gap")
    arrays = np.float32([1, np.nan, 3]), np.zeros((3, 1))
    message = r"a value for each example\. The update of 'gap' failed.*Received: metric="
    check_refused(lambda: metric.update_state(*arrays), ValueError, message)


OF_NUMBERS = {
    "rmse": keras.metrics.RootMeanSquaredError,
    "auc": pk.LogitAUC,
    "by_name": lambda: "binary_accuracy",
}


@pytest.mark.parametrize("kind", fewer({kind: kind for kind in OF_NUMBERS}, "auc", "rmse"))
def test_single_numbers_of_a_label_may_be_missing(kind):
    rng = np.random.default_rng(0)
    y, there = rng.integers(0, 2, (2, 8, 3)), rng.uniform(size=(2, 8, 3)) < 0.6
    p, weights = rng.uniform(size=(2, 8, 3)).astype("float32"), np.abs(features(2, 8))
    metric, plain = pk.MaskedMetric(OF_NUMBERS[kind]()), pk.MaskedMetric(OF_NUMBERS[kind]())
    metric.update_state(np.where(there, y, np.nan), p, weights)
    repeated = np.broadcast_to(weights[..., None], y.shape)[there]
    plain.update_state(y[there][:, None], p[there][:, None], repeated)
    assert float(metric.result()) == pytest.approx(float(plain.result()), rel=1e-5)


def test_metrics_of_whole_labels_ignore_labels_that_are_missing_in_part():
    y, p = np.float32([[1, 0], [np.nan, 1]]), np.float32([[0.9, 0.2], [0.9, 0.1]])
    metric = pk.MaskedMetric("categorical_accuracy")
    metric.update_state(y, p)
    assert float(metric.result()) == 1


@pytest.mark.parametrize("is_weighted", [pytest.param(False, marks=once), True])
def test_a_multi_label_auc_counts_each_number_that_is_not_missing(is_weighted):
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, (60, 3)).astype("float32"), rng.uniform(size=(60, 3))
    weights = rng.uniform(0.5, 2, 60) if is_weighted else None
    y[rng.uniform(size=y.shape) < 0.4] = np.nan
    metric = pk.MaskedMetric(keras.metrics.AUC(multi_label=True, num_labels=3))
    metric.update_state(y, p, weights)
    expected = []
    for labels, predictions in zip(y.T, p.T):
        is_known, auc = ~np.isnan(labels), keras.metrics.AUC()
        of_known = None if weights is None else weights[is_known]
        auc.update_state(labels[is_known], predictions[is_known], of_known)
        expected.append(float(auc.result()))
    assert float(metric.result()) == pytest.approx(np.mean(expected), rel=1e-5)
