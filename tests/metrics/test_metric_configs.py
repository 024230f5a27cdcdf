"""Every metric is restored from its config."""

import keras
import pytest

import ple_keras as pk
from ple_keras import LogitAUC
from ple_keras.metrics.loss_mean import LossMean
from tests.metrics.clicks import click_data


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
def test_metrics_are_restored_from_their_config(metric):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    labels, probabilities = click_data(0.3, 1.0, size=500)
    for each in (metric, copy):
        each.reset_state()
        each.update_state(labels[:, None], probabilities[:, None])
    assert float(copy.result()) == float(metric.result())
