"""Training, freezing and saving of every public layer, as for Keras's own layers."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests._keras.layer_cases import CASES, by_key, every_computation
from tests.helpers import QUICK, numpy_of, once, plain, randomize
from tests.models import loaded
from tests.pairs import pairs


@every_computation
def test_a_training_step_changes_every_trainable_weight(case):
    model = case.model(case.make())
    loss = by_key(lambda _: "mse", model.output)
    if hedged_heads(model):  # which are refused with a loss
        model, loss = pk.MultiTaskModel(model.input, model.output), None
    model.compile(keras.optimizers.SGD(0.1), loss=loss, **QUICK)
    randomize(model)
    before = [numpy_of(w) for w in model.trainable_weights]
    y = by_key(np.zeros, case.output_shape(32))
    assert np.isfinite(model.train_on_batch(case.arrays(32), y, return_dict=True)["loss"])
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = numpy_of(weight)
        assert np.isfinite(new).all(), weight.path
        assert not np.array_equal(new, old), weight.path


@once
@pytest.mark.parametrize(("case", "is_argument"), pairs(CASES, {"argument": True, "later": False}))
def test_a_frozen_layer_has_no_trainable_weights(case, is_argument, tmp_path):
    layer = case.make(trainable=not is_argument)
    model = case.model(layer)
    if not is_argument:
        layer.trainable = False
        assert model.trainable_weights == []
        model = loaded(model, tmp_path)
    assert model.trainable_weights == []
    assert len(model.weights) == len(layer.weights) > 0


@every_computation
def test_predictions_are_the_same_after_saving_and_loading(case, tmp_path):
    model = case.model(case.make())
    randomize(model)
    x = case.arrays(8)
    model(x, training=True)  # updates the statistics of a batch normalization
    expected = plain(numpy_of(model(x)))
    np.testing.assert_equal(plain(numpy_of(loaded(model, tmp_path)(x))), expected)
