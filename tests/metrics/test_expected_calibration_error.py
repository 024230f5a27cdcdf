"""The expected calibration error, compared with its definition."""

from itertools import pairwise

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import every_backend, once
from tests.metrics.clicks import click_data
from tests.refusals import all_refused

pytestmark = once


def expected(labels, predictions, limits):
    """Compute it bin by bin. A bin contains its upper limit, and the first also its lower."""
    error = 0
    for index, (low, high) in enumerate(pairwise(limits)):
        inside = (predictions > low) & (predictions <= high)
        inside |= (predictions == low) & (index == 0)
        if inside.any():
            error += abs(np.sum(predictions[inside] - labels[inside]))
    return error / len(labels)


@pytest.mark.parametrize(("base_rate", "num_bins"), [(0.5, 1), (0.5, 8), (0.01, 15)])
def test_the_error_is_that_of_the_definition(base_rate, num_bins):
    labels, predictions = np.float64(click_data(base_rate, 1.0, size=3000))
    predictions = np.round(32 * (0.2 + predictions / 2)) / 32  # with ties; too high or too low
    limits = np.linspace(0, 1, num_bins + 1)
    quantiles = np.unique(np.quantile(predictions, limits))
    for strategy, edges in (("uniform", limits), ("quantile", quantiles)):
        found = pk.expected_calibration_error(labels, predictions, num_bins, strategy)
        assert found == pytest.approx(expected(labels, predictions, edges), rel=1e-9)
        assert found > 1e-3


@every_backend
def test_missing_labels_are_left_out():
    labels, predictions = click_data(0.3, 1.0, size=400)
    kept = np.arange(400) % 3 == 0
    error = pk.expected_calibration_error(labels[kept], predictions[kept])
    y = np.where(kept, labels, np.nan)
    p = np.where(kept, predictions, 7.0)
    assert pk.expected_calibration_error(y[:, None], p[:, None]) == error
    tensors = [keras.ops.convert_to_tensor(array.astype("float32")) for array in (y, p)]
    assert pk.expected_calibration_error(*tensors) == pytest.approx(error, rel=1e-6)
    assert np.isnan(pk.expected_calibration_error(np.full(3, np.nan), np.zeros(3)))
    assert np.isnan(pk.expected_calibration_error([0, 1], [0.5, np.nan]))


REFUSED = {
    "above_1": ([0], [1 + 1e-5], r"be in \[0, 1\].*ons=1\.00001"),
    "bins": ([0], [0.5], 0, r"num_bins must be at least 1\. Received: num_bins=0"),
    "strategy": ([0], [0.5], 2, "even", r"strategy must be.*strategy='even"),
}


test_invalid_arguments_are_refused = all_refused(pk.expected_calibration_error, REFUSED)
