"""Training, freezing and saving of every public layer, as for Keras's own layers."""

import keras
import numpy as np
import pytest

from tests._keras.layer_cases import CASES, by_key, every_computation, every_layer, plain
from tests.helpers import QUICK_JIT, assert_same, numpy_of, once, randomize


def compiled_with_mse(model, jit_compile=QUICK_JIT):
    loss = by_key(lambda _: "mse", model.output) if isinstance(model.output, dict) else "mse"
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit_compile)
    return model


@every_computation
def test_a_training_step_changes_every_trainable_weight(case):
    model = compiled_with_mse(case.model(case.make()))
    randomize(model)
    before = [numpy_of(w) for w in model.trainable_weights]
    y = by_key(np.zeros, case.output_shape(32))
    assert np.isfinite(model.train_on_batch(case.arrays(32), y)).all()
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = numpy_of(weight)
        assert np.isfinite(new).all(), weight.path
        assert not np.array_equal(new, old), weight.path


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch has no XLA")
def test_compiled_and_uncompiled_steps_give_the_same_results():
    case = CASES["ple"]
    layers = [case.make(), case.make()]
    models = [
        compiled_with_mse(case.model(layer), jit) for layer, jit in zip(layers, (False, True))
    ]
    for model in models:
        randomize(model)
    x, y = case.arrays(8), by_key(np.zeros, case.output_shape(8))
    losses = [float(np.sum(model.train_on_batch(x, y))) for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    predictions = [plain(model.predict_on_batch(x)) for model in models]
    assert_same(predictions[0], predictions[1])


@once
@every_layer
@pytest.mark.parametrize("when", ["as_argument", "later"])
def test_a_frozen_layer_has_no_trainable_weights(case, when, tmp_path):
    layer = case.make(trainable=when != "as_argument")
    model = case.model(layer)
    if when == "later":
        layer.trainable = False
        assert model.trainable_weights == []
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.trainable_weights == []
    assert len(model.weights) == len(layer.weights) > 0


@every_computation
def test_predictions_are_the_same_after_saving_and_loading(case, tmp_path):
    model = case.model(case.make())
    randomize(model)
    x = case.arrays(8)
    model(x, training=True)  # updates the statistics of a batch normalization
    expected = plain(numpy_of(model(x)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    actual = plain(numpy_of(loaded(x)))
    assert set(actual) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value)

    fresh = case.model(case.make())
    model.save_weights(tmp_path / "model.weights.h5")
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_same(plain(numpy_of(fresh(x))), expected, atol=0)
