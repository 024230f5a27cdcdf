"""The mean of a loss as a metric, against NumPy."""

import keras
import numpy as np
import pytest

from ple_keras import LogitAUC
from ple_keras.metrics.loss_mean import LossMean
from tests.helpers import features
from tests.metrics.clicks import click_data


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
