"""Configs and refused labels of every public metric."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import once
from tests.refusals import check_refused

pytestmark = once

METRICS = {
    "auc": lambda: pk.LogitAUC(name="mine"),
    "normalized_entropy": lambda: pk.NormalizedEntropy(name="mine"),
    "calibration": lambda: pk.Calibration(name="mine"),
    "deviance": lambda: pk.PoissonDeviance(name="mine"),
    "masked_name": lambda: pk.MaskedMetric("accuracy", -1, name="mine"),
    "masked_auc": lambda: pk.MaskedMetric(pk.LogitAUC(), -1, name="mine"),
    "masked_pr": lambda: pk.MaskedMetric(keras.metrics.AUC(curve="PR"), -1, name="mine"),
}


@pytest.mark.parametrize("make", METRICS.values(), ids=[*METRICS])
def test_a_metric_is_restored_from_its_config(make):
    metric = make()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    assert copy.name == "mine"
    labels = np.float32([0, 1, 0, 1, -1])[: 5 if isinstance(metric, pk.MaskedMetric) else 4]
    for each in (metric, copy):
        each.update_state(labels, np.float32([0.3, 0.2, 0.1, 0.6, 0.9])[: len(labels)])
    assert float(copy.result()) == float(metric.result())


@pytest.mark.parametrize("make", METRICS.values(), ids=[*METRICS])
def test_labels_of_another_shape_are_refused(make):
    metric, y_pred = make(), np.zeros((3, 1), "float32")
    message = r"y_true.* must have a shape \(3, 1\) or \(3,\).*y_true\.shape=\(2,\)"
    check_refused(lambda: metric.update_state([0.0, 1.0], y_pred), ValueError, message)
