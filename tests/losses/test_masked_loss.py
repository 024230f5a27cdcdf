"""Losses over the labeled examples, compared with the plain loss of only these examples."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ple_keras as pk
from tests.helpers import JIT, assert_all_close, features, numpy_of, once
from tests.models import chain
from tests.refusals import all_refused, table


@keras.saving.register_keras_serializable("test_masked_loss")
def squared_gap(y_true, y_pred):
    """A loss with a value for each number, as users write them."""
    return keras.ops.square(y_true - y_pred)


class Ones(keras.Loss):
    """A loss that counts labels."""

    def call(self, y_true, y_pred):
        return keras.ops.ones_like(y_pred)


def binary(rng, shape):
    return rng.integers(0, 2, shape), 1


def probability(rng, shape):
    return rng.uniform(size=shape), 1


def number(rng, shape):
    return rng.normal(size=shape), 1


def count(rng, shape):
    return rng.poisson(2.0, shape), 1


def three_numbers(rng, shape):
    return rng.normal(size=(*shape, 3)), 3


def class_index(rng, shape):
    return rng.integers(0, 4, shape), 4


def one_hot(rng, shape):
    return np.eye(4)[rng.integers(0, 4, shape)], 4


LOSSES = {
    "binary_object": (keras.losses.BinaryCrossentropy(label_smoothing=0.1), binary),
    "probabilities": ("binary_crossentropy", probability),
    "mse": ("mse", number),
    "huber": (keras.losses.Huber(), number),
    "own_function": (squared_gap, number),
    "poisson": (keras.losses.Poisson(), count),
    "mae_of_three": (keras.losses.MeanAbsoluteError(), three_numbers),
    "own_function_of_three": (squared_gap, three_numbers),
    "sparse": (keras.losses.SparseCategoricalCrossentropy(), class_index),
    "categorical": ("categorical_crossentropy", one_hot),
}


def batch(kind, seed, leading=(12,)):
    """Return the loss, labels `(..., width)` or `(..., 1)`, and predictions like probabilities."""
    rng = np.random.default_rng(seed)
    loss, draw = LOSSES[kind]
    labels, units = draw(rng, leading)
    labels = labels.reshape((*leading, -1))
    predictions = rng.uniform(0.05, 0.95, (*leading, units)).astype("float32")
    if kind in ("sparse", "categorical"):
        predictions /= predictions.sum(axis=-1, keepdims=True)
    return loss, labels, predictions


def hide(labels, in_space, missing_label):
    """Return labels that are missing outside the space, in a dtype that can represent this."""
    dtype = "float32" if np.isnan(missing_label) else labels.dtype
    return np.where(in_space[..., None], labels, missing_label).astype(dtype)


def plain_values(loss, labels, predictions):
    """Return Keras's own loss of each example."""
    known = keras.losses.get(loss)
    function = known.call if isinstance(known, keras.Loss) else known
    values = numpy_of(function(np.float32(labels), predictions))
    return values.mean(axis=-1) if values.ndim == predictions.ndim else values


@settings(max_examples=4 * settings().max_examples)
@given(
    kind=st.sampled_from(list(LOSSES)),
    seed=st.integers(0, 1000),
    leading=st.sampled_from([(1,), (7,), (3, 4)]),
    rate=st.sampled_from([0.0, 0.3, 1.0]),
    missing_label=st.sampled_from([float("nan"), -1, -999.0]),
    is_weighted=st.booleans(),
    reduction=st.sampled_from([None, "sum_over_batch_size", "label_root"]),
)
def test_the_loss_is_the_mean_over_the_labeled_examples(
    kind, seed, leading, rate, missing_label, is_weighted, reduction
):
    loss, labels, predictions = batch(kind, seed, leading)
    rng = np.random.default_rng(seed + 1)
    in_space = rng.uniform(size=leading) < rate
    weights = rng.uniform(0, 3, leading).astype("float32") if is_weighted else None
    masked = pk.MaskedLoss(loss, missing_label, reduction)
    actual = masked(hide(labels, in_space, missing_label), predictions, weights)

    values = np.asarray(plain_values(loss, labels, predictions), "float64")
    total = (values * (1 if weights is None else weights))[in_space].sum()
    rows, labeled = in_space.size, max(in_space.sum(), 1)
    divisors = {None: labeled, "sum_over_batch_size": rows, "label_root": (labeled * rows) ** 0.5}
    assert float(actual) == pytest.approx(total / divisors[reduction], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("dtype", "missing_label", "labels", "expected"),
    [
        ("int64", -1, [1, -1, 0, 1], [1, 0, 1, 1]),
        ("int32", float("nan"), [1, -1, 0, 1], [1, 1, 1, 1]),
        ("uint8", -1, [1, 255, 0, 1], [1, 1, 1, 1]),
        ("int8", 0.5, [1, 0, 0, 1], [1, 1, 1, 1]),
        ("bool", -1, [True, False, False, True], [1, 1, 1, 1]),
        ("float32", float("inf"), [1, np.inf, np.nan, 1], [1, 0, 0, 1]),
        ("float32", -999.1, [1, -999.1, 0, 1], [1, 0, 1, 1]),
        ("float16", -1, [1, -1, np.nan, 1], [1, 0, 0, 1]),
        ("float16", -99.9, [1, np.float16(-99.9), np.nan, 1], [1, 0, 0, 1]),
        ("float64", None, [1, -1, np.nan, 1], [1, 1, 0, 1]),
        ("float64", -99.9, [1, -99.9, np.float32(-99.9), 1], [1, 0, 0, 1]),
    ],
)
def test_a_missing_label_is_nan_or_the_one_given_in_every_dtype(
    dtype, missing_label, labels, expected
):
    share = pk.MaskedLoss(Ones(), missing_label, reduction="sum_over_batch_size")
    labels = np.array(labels).astype(dtype)
    for y in (labels, labels[:, None]):
        assert float(share(y, np.ones((4, 1), "float32"))) == sum(expected) / 4


@pytest.mark.parametrize("weights_shape", [(6,), (6, 4, 1)])
def test_sample_weights_of_any_shape_weigh_a_sequence(weights_shape):
    rng = np.random.default_rng(0)
    labels, predictions = rng.normal(size=(6, 4)), features(6, 4, 1)
    labels[rng.uniform(size=labels.shape) < 0.4] = np.nan
    labels[0], weights = np.nan, rng.uniform(size=weights_shape).astype("float32")
    weights[0] = np.nan  # of no labels
    flat = np.broadcast_to(weights.reshape((6, -1)), (6, 4))
    values = flat * np.square(labels - predictions[..., 0])
    expected = np.nansum(values) / np.isfinite(labels).sum()
    assert float(pk.MaskedLoss("mse")(labels, predictions, weights)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("ignored", [0, -1])
def test_an_ignored_class_counts_as_a_missing_label(ignored):
    rng = np.random.default_rng(0)
    y = np.float32([0, 1, 2, 0, 1, np.nan, np.nan, 2, ignored])
    p = rng.dirichlet([1, 1, 1], 9).astype("float32")
    known = ~np.isnan(y) & (y != ignored)
    expected = -np.log(p[known, y[known].astype(int)]).mean()
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=ignored)
    assert float(pk.MaskedLoss(loss)(y, p)) == pytest.approx(expected, rel=1e-5)


OF_ELEMENTS = {
    "probabilities": (keras.losses.BinaryCrossentropy(), probability, None),
    "huber": ("huber", number, "sum_over_batch_size"),
    "poisson": ("poisson", count, "label_root"),
}


@pytest.mark.parametrize(("loss", "draw", "reduction"), table(OF_ELEMENTS))
def test_single_numbers_of_a_label_may_be_missing(loss, draw, reduction):
    """Each counts as an example."""
    rng, weights = np.random.default_rng(0), np.abs(features(3, 4))
    labels = np.float32(draw(rng, (3, 4, 5))[0])
    predictions = rng.uniform(0.05, 0.95, labels.shape).astype("float32")
    there = rng.uniform(size=labels.shape) < 0.6
    there[..., 1, :] = False
    y = np.where(there, labels, np.nan)
    predictions[~there] = np.inf
    losses = np.zeros(labels.shape)
    losses[there] = plain_values(loss, labels[there][:, None], predictions[there][:, None])
    m, size = there.sum(), there.size
    divisor = {None: m, "sum_over_batch_size": size, "label_root": (m * size) ** 0.5}[reduction]
    masked = pk.MaskedLoss(loss, reduction=reduction)
    assert float(masked(y, predictions)) == pytest.approx(losses.sum() / divisor, rel=1e-5)
    total = (losses * weights[..., None]).sum()
    assert float(masked(y, predictions, weights)) == pytest.approx(total / divisor, rel=1e-5)
    assert float(masked(np.full(y.shape, np.nan), predictions)) == 0


@pytest.mark.parametrize(
    ("loss", "missing"),
    [(squared_gap, 0), ("kl_divergence", 1), (keras.losses.BinaryCrossentropy(axis=1), 0)],
)
def test_for_other_losses_a_label_is_missing_if_one_of_its_numbers_is(loss, missing):
    y = np.float32([[0.2, 0.8], [0.9, 0.1], [0.5, 0.5]])
    p = np.float32([[0.4, 0.6], [0.1, 0.9], [0.3, 0.7]])
    expected = plain_values(loss, y[[0, 2]], p[[0, 2]]).mean()
    y[1, missing], p[1] = np.nan, np.inf
    assert float(pk.MaskedLoss(loss)(y, p)) == pytest.approx(expected, rel=1e-5)


@once
@pytest.mark.parametrize("kind", ["huber", "own_function_of_three", "sparse"])
def test_a_loss_is_restored_from_its_config(kind):
    loss, labels, predictions = batch(kind, 3)
    masked = pk.MaskedLoss(loss, -1, "label_root", labels.shape[-1], name="mine")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(masked))
    assert copy.get_config() == masked.get_config()
    y = hide(labels, np.arange(12) % 3 > 0, -1)
    assert float(copy(y, predictions)) == float(masked(y, predictions))


# Refusals

ARGUMENTS = {
    "label": ({"missing_label": "x"}, TypeError, r"missing_label must be a number.*='x'"),
    "label_flag": ({"missing_label": True}, TypeError, r"Received: missing_label=True"),
    "reduction": ({"reduction": "sum"}, r"reduction must be one of.*reduction='sum'"),
}


test_wrong_arguments_are_refused = all_refused(
    lambda arguments: pk.MaskedLoss(**{"loss": "mse", **arguments}), ARGUMENTS
)


SHAPE = r"y_true of 'mse' must have a shape \(4, 1\) or \(4, 3\) or \(4,\).*y_true\.shape="
LABELS = {
    **{str(shape): (np.zeros(shape), SHAPE) for shape in [(5,), (4, 2), (4, 1, 1), ()]},
    "complex": (np.zeros((4, 1), "complex64"), TypeError, "must contain numbers.*dtype=comp"),
}
test_wrong_labels_are_refused = all_refused(
    lambda labels: pk.MaskedLoss("mse")(labels, np.zeros((4, 3))), LABELS
)


@once
def test_a_loss_without_a_value_for_each_example_is_refused():
    def mean_of_all(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred))

    with pytest.raises(ValueError, match=r"a value for each example.*Received: loss=<function"):
        pk.MaskedLoss(mean_of_all)(np.zeros((4, 1)), np.zeros((4, 1)))


# Gradients in Keras models.


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


def test_steps_of_saturated_probabilities_are_those_of_keras():
    """Below 1e-7, they have no gradient."""
    x, y = np.zeros((6, 3), "float32"), features(6, 2) > 0
    x[:, 0] = [-200, -17, -14, 0.5, 15, 100]
    model, found = chain(keras.layers.Dense(2, activation="sigmoid")), []
    for loss in (pk.MaskedLoss("binary_crossentropy"), keras.losses.BinaryCrossentropy()):
        model.set_weights([np.float32([[1, -1], [0, 0], [0, 0]]), np.zeros(2, "float32")])
        value, changes = step(model, loss, x, y, jit_compile=False)
        found.append([value, *changes])
    assert_all_close(*found, rtol=1e-4)


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
