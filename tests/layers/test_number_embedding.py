"""NumberEmbedding against NumPy, and the boundaries that `adapt` computes."""

from functools import partial
from itertools import pairwise

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.layers import number_embedding
from tests.helpers import features, numpy_of, once, randomize
from tests.models import cloned, loaded
from tests.refusals import INF, NAN, check_refused


def reference(x, boundaries, num_bins):
    """Return the parts of numbers `(..., n)` in float64, `(..., n, num_bins)`."""
    parts = np.zeros((*x.shape, num_bins))
    for i, row in enumerate(boundaries):
        for t, (low, high) in enumerate(pairwise(row)):
            share = np.clip((x[..., i].astype("float64") - low) / (high - low), 0, 1)
            parts[..., i, t] = np.where(np.isnan(share), 0, share)
    return parts


def table(rows=400):
    """Return columns of all kinds: skewed, constant, two values, times, amounts, missing."""
    rng = np.random.default_rng(0)
    columns = [
        np.exp(2 * rng.normal(size=rows)),
        np.full(rows, 7.0),
        rng.integers(0, 2, rows),
        1.6e9 + 128 * rng.integers(0, 10**6, rows),
        1e9 * rng.normal(size=rows),
        np.where(rng.random(rows) < 0.3, np.nan, rng.integers(0, 5, rows)),
        np.full(rows, np.nan),
    ]
    return np.stack(columns, axis=1).astype("float32")


def with_extremes(x):
    others = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38], "float32")
    return np.concatenate([x, 1.5 * x, np.tile(others[:, None], x.shape[1])])


def adapted(x, *args, **kwargs):
    layer = pk.NumberEmbedding(*args, **kwargs)
    layer.adapt(x)
    return layer


def parts_of(layer, x):
    """Return the parts of numbers, by a kernel that is the identity."""
    layer(x)
    kernel, bias, boundaries = layer.get_weights()
    layer.set_weights([kernel * 0 + np.eye(layer.num_bins), bias, boundaries])
    return numpy_of(keras.ops.cast(layer(x), "float32"))


POLICIES = {"float32": 5e-7, "mixed_float16": 5e-4, "mixed_bfloat16": 4e-3, "float16": 5e-4}


@pytest.mark.parametrize(
    ("num_bins", "policy"), [(1, "float32"), (4, "float32"), *((16, policy) for policy in POLICIES)]
)
def test_parts_are_those_of_numpy_under_every_policy(num_bins, policy):
    x = table()
    layer = adapted(x, num_bins, num_bins, None, dtype=policy)
    every = with_extremes(x)
    expected = reference(every, layer.bin_boundaries, num_bins).reshape(len(every), -1)
    np.testing.assert_allclose(parts_of(layer, every), expected, atol=POLICIES[policy])
    assert [len(row) for row in layer.bin_boundaries[1:3]] == [1, 2]


@pytest.mark.parametrize("leading", [(), (3,), (2, 5)])
def test_embeddings_are_those_of_numpy(leading):
    boundaries = [[-1.0, 0.0, 2.0], [0.5], [-1.0, 1.0]]
    layer = pk.NumberEmbedding(5, num_bins=2, activation="tanh", bin_boundaries=boundaries)
    x = 2 * features(4, *leading, 3)
    layer(x)
    randomize(layer)
    kernel, bias, _ = layer.get_weights()
    parts = reference(x, boundaries, 2)
    expected = np.tanh(np.einsum("...nt,ntu->...nu", parts, kernel) + bias)
    expected = expected.reshape(4, *leading, 15)
    np.testing.assert_allclose(numpy_of(layer(x)), expected, atol=1e-6)


def test_a_network_of_half_precision_keeps_the_numbers_of_its_inputs():
    x = table()
    inputs = keras.Input((x.shape[1],))
    network = keras.Model(inputs, adapted(x, 4, 4, None, dtype="mixed_float16")(inputs))
    features = pk.StreamFeatures(["a"], network, dtype="mixed_float16")
    features(x)
    copy = features.layers[0]
    copy.set_weights(network.get_weights())
    expected, outputs = numpy_of(network(x)), numpy_of(features(x)["a"])
    np.testing.assert_array_equal(outputs, expected)
    assert copy.layers[-1].bin_boundaries == network.layers[-1].bin_boundaries


def test_boundaries_are_the_quantiles_of_each_number():
    x = table()
    boundaries = adapted(x, num_bins=4).bin_boundaries
    np.testing.assert_array_equal(
        boundaries[0], np.quantile(x[:, 0], [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf")
    )
    present = x[~np.isnan(x[:, 5]), 5]
    expected = np.unique(np.quantile(present, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf"))
    np.testing.assert_array_equal(boundaries[5], expected)
    assert boundaries[1:3] == [[7.0], [0.0, 1.0]]
    assert boundaries[6] == [0.0]


@once
def test_equal_numbers_in_float32_are_one_boundary():
    boundaries = [[1e9, 1e9 + 1, 2e9], [0.0, 1e-40, 1e-39, 1.0]]
    layer = pk.NumberEmbedding(3, 3, None, boundaries)
    assert layer.bin_boundaries == [[1e9, 2e9], [0.0, 1.0]]
    assert parts_of(layer, np.array([[1.5e9, 0.25]])).tolist() == [[0.5, 0, 0, 0.25, 0, 0]]


def test_adapt_works_before_and_after_build_and_repeatedly(tmp_path):
    x = table()
    layer = pk.NumberEmbedding(4, num_bins=4, activation=None)
    inputs = keras.Input((7,))
    model = keras.Model(inputs, layer(inputs))
    assert layer.bin_boundaries is None
    assert np.isnan(model.predict(x, verbose=0)).all()
    layer.adapt(x[:100])
    first = model.predict(x, verbose=0)
    layer.adapt(x)
    predictions = model.predict(x, verbose=0)
    assert np.abs(first - predictions).max() > 0.01
    before = adapted(x, num_bins=4)
    before.build((None, 7))
    assert layer.bin_boundaries == before.bin_boundaries
    for copy in (loaded(model, tmp_path), cloned(model, tmp_path)):
        copy.set_weights(model.get_weights())
        assert copy.layers[-1].bin_boundaries == layer.bin_boundaries
        np.testing.assert_array_equal(copy.predict(x, verbose=0), predictions)


@once
def test_adapt_reads_arrays_and_a_sample_of_many_rows(monkeypatch):
    x = table()
    assert adapted(x.reshape(20, 20, 7)).bin_boundaries == adapted(x).bin_boundaries
    monkeypatch.setattr(number_embedding, "MAX_ROWS", 5000)
    (boundaries,) = adapted(np.arange(50_000)[:, None] / 50_000, num_bins=4).bin_boundaries
    np.testing.assert_allclose(boundaries, [0, 0.25, 0.5, 0.75, 1], atol=0.03)


def test_the_widest_bin_has_parts():
    layer = pk.NumberEmbedding(1, 1, None, [[-4e37, 4e37]])
    parts = parts_of(layer, np.array([[0.0], [2e37], [9e37]], "float32"))
    np.testing.assert_allclose(parts[:, 0], [0.5, 0.75, 1.0], rtol=1e-6)


def test_gradients_reach_the_kernel_of_the_bins_below_a_number():
    layer = pk.NumberEmbedding(2, num_bins=2, activation=None, bin_boundaries=[[0.0, 1.0, 2.0]])
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layer(inputs))
    kernel = layer.get_weights()[0]
    model.compile("sgd", "mse")
    model.train_on_batch(np.array([[0.5], [np.nan]]), np.ones((2, 2)))
    change = layer.get_weights()[0] - kernel
    assert np.abs(change[0, 0]).min() > 0
    assert np.abs(change[0, 1]).max() == 0


BOUNDARIES = r"^bin_boundaries must be .* at most 3 finite numbers in ascending order for each"


@once
@pytest.mark.parametrize(
    "boundaries",
    [[], 3, [1.0, 2.0], [[0, 1], 2], [[2.0, 1.0]], [[0, 1, 2, 3]], [[0, INF]], [[NAN]], [["a"]]],
)
def test_boundaries_without_an_order_are_refused(boundaries):
    make = partial(pk.NumberEmbedding, num_bins=2, bin_boundaries=boundaries)
    check_refused(make, ValueError, BOUNDARIES)


REFUSED = {
    "infinite": ([[1.0], [INF]], ValueError, r"^bin_boundaries must be .* finite numbers"),
    "large": ([[3e38]], ValueError, r"^bin_boundaries must be .* finite numbers"),
    "text": ([["a"]], TypeError, r"^data must be an array of numbers"),
    "stream": (iter([[1.0]]), TypeError, r"^data must be an array of numbers"),
    "no rows": (np.zeros((0, 2)), ValueError, r"^data must be \(\.\.\., n\), not empty"),
    "rank": ([1.0], ValueError, r"^data must be \(\.\.\., n\)"),
}


@once
@pytest.mark.parametrize(("data", "error", "message"), list(REFUSED.values()), ids=list(REFUSED))
def test_data_without_quantiles_is_refused(data, error, message):
    layer = pk.NumberEmbedding()
    check_refused(lambda: layer.adapt(np.array(data)), error, message)
    assert layer.bin_boundaries is None


@once
def test_another_number_of_columns_is_refused():
    layer = pk.NumberEmbedding()
    layer.build((None, 2))
    check_refused(lambda: layer.adapt(table()), ValueError, r"^data must be \(\.\.\., 2\)")
    layer = adapted(table())
    check_refused(
        lambda: layer.build((None, 2)),
        ValueError,
        r"^inputs must have 7 features, .*shape=\(None, 2\)",
    )
