"""`Calibration`, `NormalizedEntropy` and `PoissonDeviance`, compared with NumPy."""

import math

import numpy as np
import pytest

import ple_keras as pk
from tests.metrics.clicks import click_data

METRICS = [pk.NormalizedEntropy, pk.Calibration, pk.PoissonDeviance]


def expected(metric, labels, predictions, weights=None):
    y, p = np.float64(labels).ravel(), np.float64(predictions).ravel()
    rate, predicted = np.average(y, weights=weights), np.average(p, weights=weights)
    if metric is pk.Calibration:
        return predicted / rate
    if metric is pk.PoissonDeviance:
        return np.average(2 * (y * np.log(np.maximum(y, 1) / p) - y + p), weights=weights)
    losses = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    return np.average(losses, weights=weights) / entropy


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize(("base_rate", "is_weighted"), [(0.999, True), (0.001, False)])
def test_metrics_over_batches_agree_with_numpy(make, base_rate, is_weighted):
    labels, predictions = click_data(base_rate, 1.0)
    weights, metric = np.where(labels > 0, 1.0, 3.0) if is_weighted else None, make()
    for rows in np.array_split(np.arange(len(labels)), 7):
        of_rows = None if weights is None else weights[rows]
        metric.update_state(labels[rows], predictions[rows], of_rows)
    found = float(metric.result())
    assert found == pytest.approx(expected(make, labels, predictions, weights), rel=1e-6)
    unweighted = expected(make, labels, predictions)
    assert not is_weighted or abs(found / unweighted - 1) > 1e-5


@pytest.mark.parametrize("make", METRICS)
def test_rounding_errors_of_many_small_batches_do_not_add_up(make):
    """After 16 million rows, a batch is smaller than the last digit of the sums."""
    metric = make()
    sums, _ = metric.variables
    large = np.full(sums.shape, 1 << 24, "float32")
    sums.assign(large)
    ones = np.ones((1, 1))
    for _ in range(100):
        metric.update_state(ones, 0.25 * ones)
    deviance, entropy = 200 * (math.log(4) - 0.75), 100 * math.log(4)
    added = {pk.Calibration: [25, 100], pk.PoissonDeviance: [deviance, 100]}
    added = added.get(make, [entropy, 100, 0])
    assert [float(x) for x in metric.totals()] == pytest.approx((large + added).tolist(), abs=1)


@pytest.mark.parametrize("excess", [0.0, 1.0, 3000.0, -3000.0, 9.9e6])
def test_the_deviance_of_large_counts_keeps_its_digits(excess):
    metric = pk.PoissonDeviance()
    labels = np.float32([1e7, 1e6 + 1, 0.0, 2.0])
    predictions = np.float32([1e7 - excess, 1e6, 1e-30, 1e-30 if excess else 2.0])
    for i, (y, p) in enumerate(zip(np.float64(labels), np.maximum(np.float64(predictions), 1e-37))):
        metric.reset_state()
        metric.update_state(labels[i : i + 1], predictions[i : i + 1])
        found = float(metric.result())
        exact = 2 * ((y and y * math.log(y / p)) - y + p)
        assert found >= 0
        assert found == pytest.approx(exact, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("make", METRICS[:2])
def test_metrics_are_nan_without_positives(make):
    metric = make()
    assert math.isnan(float(metric.result()))
    metric.update_state([0.0, 0.0], [0.2, 0.3])
    assert math.isnan(float(metric.result()))
    metric.update_state([1.0], [0.3])
    assert math.isfinite(float(metric.result()))
    metric.reset_state()
    assert math.isnan(float(metric.result()))


def test_normalized_entropy_is_nan_without_negatives_but_calibration_is_not():
    values = []
    for metric in (pk.NormalizedEntropy(), pk.Calibration()):
        metric.update_state([1.0, 1.0], [0.25, 0.75])
        values.append(float(metric.result()))
    np.testing.assert_equal(values, [math.nan, 0.5])


def test_normalized_entropy_is_finite_for_wrong_certain_predictions_and_products():
    metric = pk.NormalizedEntropy()
    metric.update_state([1, 0, 1, 0], [0.0, 1.0, 1e-30, 1e-30])
    losses = [-math.log(1e-37), -math.log(1e-7), -math.log(1e-30), 0]
    assert float(metric.result()) == pytest.approx(np.mean(losses) / math.log(2), rel=0.01)


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize(("shape", "dtype"), [((-1,), "int32"), ((50, 4, 1), "bool")])
def test_metrics_accept_labels_of_any_dtype_and_shape(make, shape, dtype):
    labels, predictions = click_data(0.3, 1.0, size=200)
    metric = make()
    leading = shape if len(shape) == 1 else shape[:-1]
    metric.update_state(labels.reshape(shape).astype(dtype), predictions.reshape((*leading, 1)))
    assert float(metric.result()) == pytest.approx(expected(make, labels, predictions), rel=1e-6)
