"""Gradients of losses over labeled examples in Keras models."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import JIT, features, numpy_of
from tests.models import chain


def step(model, loss, x, y, jit_compile):
    """Return the loss before a gradient step, and the change of each weight."""
    before = [numpy_of(w) for w in model.weights]
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit_compile)
    value = model.train_on_batch(x, y)
    return float(np.ravel(value)[0]), [numpy_of(w) - b for w, b in zip(model.weights, before)]


@pytest.mark.parametrize("jit_compile", JIT)
@pytest.mark.parametrize(
    ("missing_label", "reduction"),
    [(float("nan"), None), (-1, "sum_over_batch_size"), (-1, "label_root")],
)
def test_a_batch_without_labels_has_loss_0_and_no_gradient(missing_label, reduction, jit_compile):
    model = chain(keras.layers.Dense(1))
    loss = pk.MaskedLoss("mse", missing_label, reduction)
    y = np.full((4, 1), missing_label, "float32")
    value, changes = step(model, loss, features(4, 3), y, jit_compile)
    assert value == 0
    for change in changes:
        np.testing.assert_array_equal(change, np.zeros_like(change))


@pytest.mark.parametrize("jit_compile", JIT)
def test_predictions_that_overflow_outside_the_space_give_a_finite_loss_and_gradient(jit_compile):
    """The model can be untrained on the features of an example without a label."""
    model = chain(keras.layers.Dense(1))
    x = np.float32([[1, 1, 1], [1e30, 1e30, 1e30]])
    model.set_weights([np.ones((3, 1), "float32"), np.zeros(1, "float32")])
    assert np.isinf(np.square(numpy_of(model(x))[1]))
    loss = pk.MaskedLoss("mse")
    value, changes = step(model, loss, x, np.float32([[1], [np.nan]]), jit_compile)
    assert np.isfinite(value)
    assert all(np.isfinite(change).all() for change in changes)


@pytest.mark.parametrize("jit_compile", JIT)
def test_labels_of_padded_positions_are_ignored(jit_compile):
    inputs = keras.Input((3, 2))
    outputs = keras.layers.Dense(1)(keras.layers.Masking()(inputs))
    model = keras.Model(inputs, outputs)
    metric = pk.MaskedMetric("mean_squared_error")
    model.compile("sgd", pk.MaskedLoss("mse"), metrics=[metric], jit_compile=jit_compile)
    x, y = features(4, 3, 2), features(4, 3, 1, seed=1)
    x[:, 1:] = 0
    expected = np.mean((numpy_of(model(x)) - y)[:, 0] ** 2)
    for padding in (0, 1e6):
        y[:, 1:] = padding
        loss, shown = model.evaluate(x, y, verbose=0)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert shown == pytest.approx(expected, rel=1e-5)
