"""StreamFeatures: a copy of the feature network for each stream."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once, randomize
from tests.layers.feature_networks import columns, network, symbols
from tests.models import cloned, loaded
from tests.pairs import fewer
from tests.refusals import BOOLS, all_refused, arguments_refused, at, check_refused

BACKEND = keras.backend.backend()
TASKS = ["click", "buy", "like"]


def make(outputs=TASKS, feature_block=None, **kwargs):
    return pk.StreamFeatures(outputs, feature_block or network(), **kwargs)


def reference(copy, x):
    """Compute `network` in NumPy with the weights of a copy."""
    values = {"/".join(w.path.split("/")[-2:]): np.float64(numpy_of(w)) for w in copy.weights}
    joined = np.concatenate([values["embedding/embeddings"][x["item"]], x["price"]], axis=-1)
    return np.tanh(joined @ values["dense/kernel"] + values["dense/bias"])


@hypothesis.given(data=st.data(), count=st.integers(1, 6), shared=st.booleans())
def test_each_stream_is_computed_by_its_own_copy(data, count, shared):
    tasks = [f"{i}-task" for i in range(count)]
    own = data.draw(st.none() | st.lists(st.sampled_from(tasks), unique=True))
    layer, x = make(tasks, own=own, shared=shared), columns()
    layer(x)
    randomize(layer)
    outputs = numpy_of(layer(x))
    assert list(outputs) == [*tasks, *(["shared"] if shared else [])]
    with_own = tasks if own is None else own
    read = {s: f"stream-{s}" if s in with_own else "stream-shared" for s in outputs}
    expected = {s: reference(getattr(layer, name), x) for s, name in read.items()}
    assert_same(outputs, expected)
    assert [copy.name for copy in layer.layers] == list(dict.fromkeys(read.values()))
    assert {name for name in dir(layer) if name.startswith("stream-")} == set(read.values())


# Adapted layers.


def prices():
    return np.array([[5.0], [20.0], [80.0]], "float32")


def adapted(layer, data=None):
    layer.adapt(prices() if data is None else data)
    return layer


def functional(layer, dtype="float32"):
    inputs = keras.Input((1,), dtype=dtype)
    return keras.Model(inputs, layer(inputs))


def binned():
    return adapted(keras.layers.Discretization(num_bins=3, output_mode="one_hot"))


def nested():
    return keras.Sequential([functional(adapted(keras.layers.Normalization()))])


ADAPTED = {
    "all_axes": (lambda: adapted(keras.layers.Normalization(axis=None)), prices),
    "nested": (nested, prices),
    "boundaries": (binned, prices),
}


@pytest.mark.parametrize(("make_network", "x"), fewer(ADAPTED, "nested"))
def test_copies_have_the_state_of_adapted_layers(make_network, x, tmp_path):
    pytest.importorskip("tensorflow")  # some of these layers need it
    network, x = make_network(), x()
    expected = numpy_of(network(x))
    layer = make(feature_block=network, name="features")
    inputs = keras.Input((1,), dtype=str(x.dtype))
    model = keras.Model(inputs, layer(inputs))
    again = loaded(model, tmp_path)
    for each in (model, again, cloned(model, tmp_path), cloned(again, tmp_path)):
        for output in each.predict(x, verbose=0).values():
            np.testing.assert_allclose(output, expected, atol=1e-6)


@keras.saving.register_keras_serializable(package="test_stream_features")
class OwnAdapt(keras.layers.Rescaling):
    def adapt(self, data):
        self.scale = 1 / float(np.max(data))


@once
def test_a_custom_layer_with_adapt_is_taken():
    outputs = make(feature_block=adapted(OwnAdapt(1.0)))(prices())
    np.testing.assert_allclose(numpy_of(outputs["buy"]), prices() / 80)


UNADAPTED = {
    "layer": keras.layers.Normalization,
    "numbers": pk.NumberEmbedding,
    "lookup": lambda: keras.Sequential([keras.layers.IntegerLookup()]),
    "block": lambda: pk.SequentialBlock([adapted(keras.layers.Normalization())]),
}


@once
@pytest.mark.parametrize("name", list(UNADAPTED))
def test_layers_without_an_adapted_state_are_refused(name):
    if name == "lookup":
        pytest.importorskip("tensorflow")
    network = UNADAPTED[name]()
    check_refused(
        lambda: make(feature_block=network)(prices()),
        ValueError,
        r"^feature_block must have adapted layers. Call `adapt` of '.*', .*"
        r"Functional or Sequential model.*Received: feature_block=<",
    )


# Columns.


@keras.saving.register_keras_serializable(package="test_stream_features")
class Columns(keras.layers.Layer):
    """A network that needs integers `(B,)` and passes floats `(B, 2)` and booleans `(B,)`."""

    def build(self, input_shape):
        self.table = self.add_weight((10, 3), name="table")

    def call(self, inputs):
        dtypes = {key: keras.backend.standardize_dtype(x.dtype) for key, x in inputs.items()}
        assert dtypes["ids"].startswith("int"), dtypes
        assert dtypes["flag"] == "bool", dtypes
        assert dtypes["numbers"] == self.compute_dtype, dtypes
        flags = keras.ops.expand_dims(keras.ops.cast(inputs["flag"], self.compute_dtype), -1)
        looked_up = keras.ops.take(self.table, inputs["ids"], axis=0)
        return keras.ops.concatenate([looked_up, inputs["numbers"], flags], axis=-1)


def mixed_columns():
    flag = np.array([True, False, True])
    return {"ids": np.array([1, 2, 9]), "numbers": features(3, 2), "flag": flag}


def symbolic_columns():
    return {
        "ids": keras.Input((), dtype="int32"),
        "numbers": keras.Input((2,)),
        "flag": keras.Input((), dtype="bool"),
    }


@pytest.mark.parametrize(
    ("first", "policy"), [(mixed_columns, "float32"), (symbolic_columns, "mixed_bfloat16")]
)
def test_dtypes_of_columns_come_from_the_first_call_and_stay_in_the_config(first, policy):
    layer = make(feature_block=Columns(dtype=policy), dtype=policy)
    layer(first())
    layer(mixed_columns())
    dtypes = layer.get_config()["input_dtypes"]
    assert (dtypes["numbers"], dtypes["flag"]) == (None, "bool")
    assert dtypes["ids"].startswith("int")
    shapes = {"ids": (None,), "numbers": (None, 2), "flag": (None,)}
    copy = pk.StreamFeatures.from_config(layer.get_config())
    assert copy.compute_output_shape(shapes)["click"] == (None, 6)
    copy.build(shapes)
    assert copy.get_config() == layer.get_config()
    copy.set_weights(layer.get_weights())
    expected = numpy_of(layer(mixed_columns()))
    assert_same(numpy_of(copy(mixed_columns())), expected, atol=0)
    dtype = keras.backend.standardize_dtype(layer(mixed_columns())["buy"].dtype)
    assert dtype == policy.removeprefix("mixed_")


def test_floats_of_all_columns_do_not_replace_the_dtypes_of_the_config():
    """Keras passes them when it builds a model from shapes."""
    layer = make()
    layer(symbols())
    copy = pk.StreamFeatures.from_config(layer.get_config())
    copy({key: keras.Input(x.shape[1:]) for key, x in symbols().items()})
    assert copy.get_config()["input_dtypes"] == {"item": "int32", "price": None}


def test_tensors_are_features_too():
    layer = make(feature_block=keras.layers.Dense(4), shared=False)
    assert {tuple(x.shape) for x in layer(features(2, 5, 3)).values()} == {(2, 5, 4)}
    ids = make(feature_block=keras.layers.Embedding(5, 2))
    assert tuple(ids(np.array([1, 2]))["shared"].shape) == (2, 2)
    assert isinstance(ids.get_config()["input_dtypes"], str)


# Masks, training, freezing.


def test_copies_train_and_predict_in_their_modes():
    block = keras.Sequential([keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    layer, x = make(feature_block=block, own=["buy"]), features(4, 3)
    layer(x)
    one, other = (numpy_of(layer(x))["buy"] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (numpy_of(layer(x, training=True))["buy"] == 0).any()


# Blocks and other networks.


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has strings")
def test_columns_of_strings(tmp_path):
    import tensorflow as tf

    city = keras.Input((), dtype="string", name="city")
    codes = adapted(keras.layers.StringLookup(), np.array(["Rome", "Bonn"]))(city)
    template = keras.Model({"city": city}, keras.layers.Embedding(4, 2)(codes))
    inputs = {"city": keras.Input((), dtype="string", name="city")}
    ple = pk.PLEBlock(1, TASKS, [3])
    model = keras.Model(inputs, ple(make(feature_block=template, name="features")(inputs)))
    x = {"city": tf.constant(["Rome", "Bonn", "?"])}
    model.compile("sgd", dict.fromkeys(TASKS, "mse"), jit_compile=False)
    model.fit(x, {task: np.ones((3, 3)) for task in TASKS}, verbose=0)
    expected = numpy_of(model(x))
    for again in (loaded, cloned):
        copy = again(model, tmp_path)
        copy.set_weights(model.get_weights())
        assert_same(numpy_of(copy(x)), expected, atol=0)
        assert copy.get_layer("features").get_config()["input_dtypes"] == {"city": "string"}
    assert len(np.unique(numpy_of(model.get_layer("features")(x))["buy"], axis=0)) == 3


def of_ids(in_a_model):
    ids = keras.Input((1,), dtype="int32")
    layers = [keras.layers.Embedding(5000, 8), keras.layers.Flatten()]
    sequential = keras.Sequential([ids, *layers])
    inputs = keras.Input((1,), dtype="int32")
    return keras.Model(inputs, sequential(inputs)) if in_a_model else sequential


@pytest.mark.parametrize("in_a_model", [False, True])
def test_large_integers_keep_their_values_in_a_sequential_with_an_input(in_a_model):
    """bfloat16 has 8 significant bits, so a cast makes neighboring ids equal."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    ids = np.arange(4000, 4020, dtype="int32")[:, None]
    inputs = keras.Input((1,), dtype="int32", name="ids")
    layer, inside = (
        pk.StreamFeatures(["click"], of_ids(in_a_model), name="features") for _ in range(2)
    )
    block = pk.SequentialBlock([inside, pk.PLEBlock(1, ["click"], [3])], name="block")
    for model in (keras.Model(inputs, layer(inputs)), keras.Model(inputs, block(inputs))):
        copies = [model, keras.models.clone_model(model)]
        assert [w.path for w in copies[0].weights] == [w.path for w in copies[1].weights]
        for each in copies:
            (features, *_) = [x for x in each._flatten_layers() if x.name == "features"]
            vectors = numpy_of(keras.ops.cast(features(ids)["click"], "float32"))
            assert len(np.unique(vectors, axis=0)) == 20


# Refusals.

OWN = r"must be None or a list of tasks among \['click', 'buy', 'like'\]"
ARGUMENTS = {"outputs": TASKS, "feature_block": keras.layers.Dense(3)}
test_a_bad_argument_is_refused = arguments_refused(
    {pk.StreamFeatures: ARGUMENTS},
    [
        (at("shared", pk.StreamFeatures), BOOLS),
        (
            at("own", pk.StreamFeatures),
            [
                (value, ValueError, OWN)
                for value in (["buy", "no"], ["buy", "shared"], "buy", {"buy": 1})
            ],
        ),
    ],
)
A_TENSOR = "inputs must be a tensor or dict of columns"
REFUSED = {
    "own": (lambda: pk.StreamFeatures(TASKS, {}, own=[]), "own must be None"),
    "columns": (lambda: make()({"item": np.ones(2, "int32")}), "must accept "),
    "list": (lambda: make()([features(4, 3), features(4, 3)]), TypeError, A_TENSOR),
    "none": (lambda: make()(None), TypeError, A_TENSOR),
}
test_a_bad_call_is_refused = all_refused(lambda call: call(), REFUSED)
