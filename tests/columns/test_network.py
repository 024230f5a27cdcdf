"""The network of Columns has a table for each column, and the digest of its values."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, once
from tests.models import loaded

LISTS = {"genres": ("genres", 3), "history": ("item", 4)}
TEXTS = {"title": ("words", 3)}


@pytest.fixture(scope="module")
def columns(frame):
    return pk.Columns(["user", "item"], ["age"], LISTS, TEXTS, logs=["votes"]).fit(frame, 2)


def model_of(columns, own=None):
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    network = columns.network({"shared": 4, **own} if own else 4, 0.5)
    inputs = network["shared"].input if own else network.input
    return pk.MultiTaskModel(inputs, heads(pk.HedgedBlock(heads, [8], features=network)(inputs)))


def test_branches_have_copies_of_the_feature_network(columns, frame):
    keras.utils.set_random_seed(0)
    model = model_of(columns)
    x = columns.transform(frame)
    pk.check_inputs(model, x)
    model.compile(pk.table_optimizer("adam"), hedge=False)
    y = {"click": np.array([0, 1, 0, 1, 1, 0]), "time": np.arange(6.0)}
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    tables = [w for w in model.trainable_variables if "_table" in w.path]
    assert len(tables) == 3 * 4  # two tasks and the shared branch; user, item, genres, words


@once
def test_own_tables_have_their_own_widths(columns, frame, tmp_path):
    networks = columns.network({"shared": 4, "click": 1, "time": 2})
    widths = {stream: network.output_shape[1] for stream, network in networks.items()}
    assert widths == {"shared": 5 * 4 + 4, "click": 5 * 1 + 4, "time": 5 * 2 + 4}
    model = model_of(columns, own={"click": 1, "time": 2})
    widths = [w.shape[1] for w in model.trainable_variables if "_table" in w.path]
    assert sorted(widths) == [1] * 4 + [2] * 4 + [4] * 4
    x = columns.transform(frame)
    assert_same(loaded(model, tmp_path).predict_on_batch(x), model.predict_on_batch(x))


def test_a_list_is_the_mean_of_rows_of_the_table_of_its_column(columns, frame):
    network = columns.network(4, 0.5)
    features = keras.ops.convert_to_numpy(network(columns.transform(frame)))
    item, history = features[:, 4:8], features[:, 12:16]
    np.testing.assert_allclose(history[0], item[0], rtol=1e-6)  # "a"
    np.testing.assert_allclose(history[4], (item[0] + item[1]) / 2, rtol=1e-5)  # two of each
    assert not history[1].any()
    assert features[:, -2].tolist() == [0, 1, 0, 0, 0, 0]  # the missing age
    assert features.shape == (6, 5 * 4 + 2 * 2)


@pytest.mark.parametrize(
    "options", [{"ids": ["user"]}, {"numbers": ["age"]}, {"lists": {"genres": ("genres", 2)}}]
)
def test_columns_of_one_kind_make_a_network(frame, options):
    columns = pk.Columns(**options).fit(frame, min_rows=1)
    network = columns.network(width=3)
    assert network(columns.transform(frame)).shape[0] == 6
    inputs = network.input
    heads = pk.TaskHeads([pk.BinaryHead("click")])
    model = pk.MultiTaskModel(inputs, heads(pk.PLEBlock(1, heads, [3])(network(inputs))))
    assert model.predict_on_batch(columns.transform(frame))["click"].shape == (6, 1)


def test_numbers_are_limited_or_embedded(frame, tmp_path):
    numbers = frame.assign(time=1.7e9 + np.arange(6.0))
    columns = pk.Columns(numbers=["age", "time"], logs=["votes"]).fit(numbers)
    x = columns.transform(numbers.assign(age=[30, None, 1e30, -1e30, 25, 50]))
    plain = columns.network().predict_on_batch(x)
    scaled = (25 - 30) / np.std([30, 50, 40, 20, 10])
    np.testing.assert_allclose(plain[:, 0], [0, 0, 5, -5, scaled, (50 - 30) / 14.142136], rtol=1e-5)
    assert plain[:, 3].tolist() == [0, 1, 0, 0, 0, 0]
    network = columns.network(number_units=3)
    layer = next(each for each in network.layers if isinstance(each, pk.NumberEmbedding))
    assert [len(edges) for edges in layer.edges] == [5, 6, 4]
    parts = pk.NumberEmbedding(None, edges=layer.edges)
    shares = np.reshape(parts(np.stack([x[n] for n in columns.numbers], -1)), (6, 3, 16)).sum(-1)
    expected = [[2, 0], [0, 1], [4, 2], [0, 3], [1.5, 4], [4, 5]]  # of 10 to 50, and of seconds
    np.testing.assert_allclose(shares[:, :2], expected, atol=1e-5)
    embedded = network.predict_on_batch(x)
    assert embedded.shape == (6, 3 * 3 + 3)
    np.testing.assert_array_equal(loaded(network, tmp_path).predict_on_batch(x), embedded)
    own = columns.network({"shared": 4, "like": 2}, number_units=2)
    assert own["like"].output_shape == (None, 3 * 2 + 3)
    columns.quantiles = {}
    with pytest.raises(ValueError, match=r"fit the columns again. Received: number_units=3"):
        columns.network(number_units=3)


@once
def test_the_codes_of_other_columns_are_refused_by_the_name_of_their_column(columns, frame):
    x = columns.transform(frame)
    x = x | {"item": x["item"] + 2}
    with pytest.raises(ValueError, match=r"ids from 0 to 3 for the Embedding.*x\['item'\]"):
        pk.check_inputs(model_of(columns), x)


@once
def test_a_model_knows_the_digest_of_its_columns_and_refuses_others(columns, frame, tmp_path):
    network, own = columns.network(), model_of(columns, {"click": 1, "time": 2})
    streams = pk.StreamFeatures(["click"], network, name="streams")
    streamed = keras.Model(network.input, streams(network.input))
    ended = keras.Model(network.input, keras.layers.Dense(2)(network.output))
    old = keras.layers.Concatenate(name=f"columns_{columns.digest}")  # of 0.6.0
    earlier = keras.Model(
        network.input, old(2 * [keras.layers.Embedding(9, 2)(network.input["user"])])
    )
    later = pk.Columns(["user", "item"], ["age"], LISTS, TEXTS, logs=["votes"]).fit(frame[1:], 2)
    x = columns.transform(frame)
    for model in (own, streamed, ended, earlier):
        for copy in (model, keras.models.clone_model(model), loaded(model, tmp_path)):
            assert f"columns_{columns.digest}" in copy.to_json()
            pk.check_inputs(copy, x, columns=columns)
            with pytest.raises(ValueError, match=f"{later.digest}.*{columns.digest}.* in the"):
                pk.check_inputs(copy, x, columns=later)
    network.layers[-1].digest = later.digest
    pk.check_inputs(loaded(network, tmp_path), x, columns=later)
    pk.check_inputs(keras.Model(network.input, network.input["user"]), x, columns=later)
    with pytest.raises(TypeError, match="columns must be a Columns"):
        pk.check_inputs(own, x, columns="c.json")


@once
@pytest.mark.parametrize(
    ("width", "error", "reason"),
    [
        (0, ValueError, "width must be at least 1"),
        ("16", TypeError, "width must be an integer"),
        ({"shared": 16.0}, TypeError, "width must be an integer"),
    ],
)
def test_widths_are_checked(columns, width, error, reason):
    with pytest.raises(error, match=reason):
        columns.network(width)


@once
def test_a_network_needs_a_column(frame):
    columns = pk.Columns().fit(frame)
    with pytest.raises(ValueError, match="Call fit first"):
        columns.network()
