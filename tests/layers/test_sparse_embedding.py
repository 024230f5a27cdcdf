"""SparseEmbedding computes the same as Keras's Embedding."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import numpy_of, once
from tests.models import loaded
from tests.optimizers.tables import IS_JAX, ROWS, build, ids, record_rows, small, train_small
from tests.refusals import arguments_refused, at, at_least

pytestmark = pytest.mark.usefixtures("small_tables_by_rows")

BACKEND = keras.backend.backend()


def pair(**kwargs):
    """Return our layer and Keras's, with equal weights."""
    kwargs = {"name": "table", **kwargs}
    layers = [kind(ROWS, 3, **kwargs) for kind in (pk.SparseEmbedding, keras.layers.Embedding)]
    for layer in layers:
        layer.build()
    layers[1].set_weights(layers[0].get_weights())
    return layers


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4,), "int32"), ((2, 3), "int64"), ((2, 1, 3), "uint8"), ((4,), "float32")],
)
def test_rows_are_those_of_an_embedding(shape, dtype):
    ours, keras_layer = pair()
    inputs = np.random.default_rng(0).integers(0, ROWS, shape).astype(dtype)
    np.testing.assert_array_equal(numpy_of(ours(inputs)), numpy_of(keras_layer(inputs)))
    assert ours(inputs).shape == (*shape, 3)


def test_masks_and_symbolic_shapes_are_those_of_an_embedding():
    ours, keras_layer = pair(mask_zero=True)
    inputs = np.array([[0, 1], [2, 0]])
    masks = [numpy_of(layer.compute_mask(inputs)) for layer in (ours, keras_layer)]
    np.testing.assert_array_equal(*masks)
    assert ours(keras.Input((None,), dtype="int32")).shape == (None, None, 3)


def test_lora_is_that_of_an_embedding(tmp_path):
    layers = pair()
    model, other = (keras.Sequential([keras.Input((2,), dtype="int32"), layer]) for layer in layers)
    for each in (model, other):
        layer = each.layers[-1]
        layer.enable_lora(2)
        layer.lora_embeddings_a.assign(np.ones((ROWS, 2)))
        layer.lora_embeddings_b.assign(np.ones((2, 3)))
    x = np.array([[1, 2], [3, ROWS - 1]])
    expected = other.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    copy = loaded(model, tmp_path)
    np.testing.assert_allclose(copy.predict(x, verbose=0), expected, atol=1e-6)


def test_gradients_with_a_regularizer_have_all_rows(monkeypatch):
    def regularized(**kwargs):
        return pk.SparseEmbedding(ROWS, 3, embeddings_regularizer="l2", **kwargs)

    model = small(pk.SparseAdagrad(), regularized, run_eagerly=not IS_JAX, jit_compile=IS_JAX)
    counts = record_rows(monkeypatch)
    train_small(model, steps=1)
    assert not counts


def test_lora_trains_its_own_weights():
    model = small(pk.SparseAdagrad())
    layer = model.get_layer("table")
    layer.enable_lora(2)
    model.compile(pk.SparseAdagrad(), "mse", run_eagerly=not IS_JAX, jit_compile=IS_JAX)
    before = layer.get_weights()
    train_small(model)
    changed = [
        weight.name
        for weight, old in zip(layer.weights, before)
        if not np.array_equal(numpy_of(weight), old)
    ]
    assert sorted(changed) == ["lora_embeddings_a", "lora_embeddings_b"]


@pytest.mark.skipif(BACKEND == "jax", reason="JAX raises no error for an unknown id")
@pytest.mark.parametrize("wrong", [ROWS, -1])
def test_an_id_that_is_not_in_the_table_is_an_error_that_names_the_layer(wrong):
    model = build("sgd", run_eagerly=False)
    x = ids()
    x["user"][0] = wrong
    error = IndexError
    if BACKEND == "tensorflow":
        import tensorflow as tf

        error = tf.errors.InvalidArgumentError
    with pytest.raises(error, match="of-user"):
        model.predict(x, verbose=0)
    with pytest.raises(ValueError, match=r"must have ids from 0 to 8 .*'of-user'"):
        pk.check_inputs(model, x)


@once
@pytest.mark.parametrize("wrong", [12, 2**32 + 5])
def test_the_error_states_the_ids(wrong):
    message = rf"from 0 to 8 for the SparseEmbedding 'of-user'\. Received: inputs from 1 to {wrong}"
    layer = pk.SparseEmbedding(ROWS, 3, name="of-user")
    with pytest.raises(IndexError, match=message):
        layer(np.array([1, wrong]))


def test_models_use_xla_only_on_jax():
    model = small("sgd", jit_compile="auto", run_eagerly=False)
    train_small(model, steps=1)
    assert model.jit_compile == IS_JAX


@once
def test_the_config_is_that_of_an_embedding():
    ours, keras_layer = pair(mask_zero=True, embeddings_initializer="uniform")
    assert ours.get_config() == keras_layer.get_config()
    assert pk.SparseEmbedding.from_config(ours.get_config()).get_config() == ours.get_config()


@once
def test_tables_start_small_and_different():
    first, second = (numpy_of(pk.SparseEmbedding(1000, 3)(np.arange(1000))) for _ in range(2))
    assert 0.009 < np.std([first, second]) < 0.011
    assert not np.array_equal(first, second)
    ones = pk.SparseEmbedding(3, 1, embeddings_initializer="ones")
    np.testing.assert_array_equal(numpy_of(ones(np.arange(3))), np.ones((3, 1)))


test_a_bad_size_is_refused = arguments_refused(
    {pk.SparseEmbedding: {"input_dim": 9, "output_dim": 3}},
    [(at(size, pk.SparseEmbedding), at_least(1)) for size in ("input_dim", "output_dim")],
)
