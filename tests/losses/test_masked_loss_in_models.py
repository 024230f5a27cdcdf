"""Gradients of losses over labeled examples in Keras models."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import JIT, features, numpy_of
from tests.models import chain


def one_layer(units, activation=None):
    return chain(keras.layers.Dense(units, activation=activation))


def step(model, loss, x, y, jit_compile, weights=None, learning_rate=1.0):
    """Return the loss before a gradient step, and the change of each weight."""
    before = [numpy_of(w) for w in model.weights]
    model.compile(keras.optimizers.SGD(float(learning_rate)), loss, jit_compile=jit_compile)
    value = model.train_on_batch(x, y, sample_weight=weights)
    after = [numpy_of(w) for w in model.weights]
    model.set_weights(before)
    return float(np.ravel(value)[0]), [b - a for a, b in zip(after, before)]


@pytest.mark.parametrize("jit_compile", JIT)
@pytest.mark.parametrize(
    ("loss", "activation", "units", "reduction"),
    [
        ("binary_crossentropy", "sigmoid", 1, None),
        ("mse", None, 1, "sum_over_batch_size"),
        ("sparse_categorical_crossentropy", "softmax", 4, "label_root"),
    ],
)
def test_gradients_are_those_of_the_labeled_examples(
    loss, activation, units, reduction, jit_compile
):
    rng = np.random.default_rng(2)
    x, labels = features(16, 3), rng.integers(0, max(units, 2), (16, 1)).astype("float32")
    weights = rng.uniform(0.5, 2, 16).astype("float32")
    has_label = rng.uniform(size=16) < 0.4
    model = one_layer(units, activation)
    masked = pk.MaskedLoss(loss, reduction=reduction)
    y = np.where(has_label[:, None], labels, np.nan)
    value, changes = step(model, masked, x, y, jit_compile, weights)
    power = {None: 0, "label_root": 0.5, "sum_over_batch_size": 1}[reduction]
    share = has_label.mean() ** power
    expected, plain = step(
        model, loss, x[has_label], labels[has_label], jit_compile, weights[has_label], share
    )
    assert value == pytest.approx(share * expected, rel=1e-5)
    for actual, change in zip(changes, plain):
        np.testing.assert_allclose(actual, change, rtol=1e-5, atol=1e-6)
        assert np.abs(change).max() > 1e-3


@pytest.mark.parametrize("jit_compile", JIT)
@pytest.mark.parametrize(
    ("missing_label", "reduction"),
    [(float("nan"), None), (-1, "sum_over_batch_size"), (-1, "label_root")],
)
def test_a_batch_without_labels_has_loss_0_and_no_gradient(missing_label, reduction, jit_compile):
    model = one_layer(1)
    loss = pk.MaskedLoss("mse", missing_label, reduction)
    y = np.full((4, 1), missing_label, "float32")
    value, changes = step(model, loss, features(4, 3), y, jit_compile)
    assert value == 0
    for change in changes:
        np.testing.assert_array_equal(change, np.zeros_like(change))


@pytest.mark.parametrize("jit_compile", JIT)
def test_predictions_that_overflow_outside_the_space_give_a_finite_loss_and_gradient(jit_compile):
    """The model can be untrained on the features of an example without a label."""
    model = one_layer(1)
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
