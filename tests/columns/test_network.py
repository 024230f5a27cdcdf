"""The network of Columns has a table for each column, and the digest of its values."""

import keras
import numpy as np
import pytest
from keras import ops

import ple_keras as pk
from ple_keras._keras.tensors import to_numpy
from tests.helpers import QUICK, assert_same, every_backend, once
from tests.models import loaded

pytestmark = once

LISTS = {"genres": ("genres", 3), "history": ("item", 4)}
TEXTS = {"title": ("words", 3)}


@pytest.fixture(scope="module")
def columns(frame):
    return pk.Columns(["user", "item"], ["age"], LISTS, TEXTS, logs=["votes"]).fit(frame, 2)


def model_of(columns, own=None, packed=False):
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    network = columns.network({"shared": 4, **own} if own else 4, 0.5, packed=packed)
    inputs = network["shared"].input if own else network.input
    return pk.MultiTaskModel(inputs, heads(pk.HedgedBlock(heads, [8], features=network)(inputs)))


def test_own_tables_have_their_own_widths(columns, frame, tmp_path):
    networks = columns.network({"shared": 4, "click": 1, "time": 2})
    widths = {stream: network.output_shape[1] for stream, network in networks.items()}
    assert widths == {"shared": 5 * 4 + 4, "click": 5 * 1 + 4, "time": 5 * 2 + 4}
    model = model_of(columns, own={"click": 1, "time": 2})
    widths = [w.shape[1] for w in model.trainable_variables if "table" in w.path]
    assert sorted(widths) == [1, 2, 4]
    x = columns.transform(frame)
    assert_same(loaded(model, tmp_path).predict_on_batch(x), model.predict_on_batch(x))


def by_column(columns, width):
    """Return a network with a table for each column, with the same predictions."""
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in columns.ids}
    for name, (_, length) in columns.sequences.items():
        inputs[name] = keras.Input((length,), dtype="int32", name=name)
    inputs |= {name: keras.Input((), name=name) for name in columns.numbers}
    tables = {
        name: pk.SparseEmbedding(len(values) + 2, width, name=f"{name}_table")
        for name, values in columns.known.items()
    }
    features = [tables[name](inputs[name]) for name in columns.ids]
    for name, (table, _) in columns.sequences.items():
        is_given = ops.cast(inputs[name] != 0, "float32")[..., None]
        total = ops.sum(tables[table](inputs[name]) * is_given, axis=1)
        features.append(total / ops.maximum(ops.sum(is_given, axis=1), 1))
    values = ops.stack([inputs[name] for name in columns.numbers], axis=-1)
    features += [ops.nan_to_num(values), ops.cast(ops.isnan(values), "float32")]
    return keras.Model(inputs, ops.concatenate(features, axis=-1)), tables


@every_backend
@pytest.mark.parametrize(
    ("optimizer", "packed", "rows_per_id"),  # below 6, JAX updates only the rows of a batch
    [
        pytest.param(keras.optimizers.SGD, True, 0, marks=once),
        (pk.SparseAdagrad, True, 0),
        pytest.param(pk.SparseAdagrad, False, 6, marks=once),
    ],
)
def test_one_table_has_the_predictions_and_steps_of_a_table_for_each_column(
    columns, frame, packed, optimizer, rows_per_id, monkeypatch
):
    monkeypatch.setattr("ple_keras.optimizers.sparse_adagrad.ROWS_PER_ID", rows_per_id)
    before, tables = by_column(columns, 3)
    after = columns.network(3, packed=packed)
    rows = np.concatenate([to_numpy(tables[name].embeddings) for name in columns.known])
    models = []
    for network in (before, after):
        heads = pk.TaskHeads([pk.BinaryHead("click")])
        block = pk.SharedBottomBlock(heads, [3])
        model = pk.MultiTaskModel(network.input, heads(block(network(network.input))))
        model.compile(optimizer(0.5), **QUICK)
        models.append(model)
    after.get_layer("table").set_weights([rows])
    others = [[w for w in model.weights if "table" not in w.path] for model in models]
    for weight, other in zip(*others, strict=True):
        other.assign(to_numpy(weight))
    x, y = (columns.transform(frame, packed=p) for p in (False, packed)), np.arange(6) % 2
    for model, each in zip(models, x):
        model.fit(each, {"click": y}, epochs=3, verbose=0, shuffle=False)
    trained = np.concatenate([to_numpy(tables[name].embeddings) for name in columns.known])
    assert np.abs(trained - rows).max() > 0.01
    (table,) = after.get_layer("table").get_weights()
    np.testing.assert_allclose(table, trained, atol=1e-6)
    x = (columns.transform(frame, packed=p) for p in (False, packed))
    predictions = [model.predict_on_batch(each) for model, each in zip(models, x)]
    assert_same(*predictions, atol=1e-6)


@every_backend
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
    network = columns.network(embedding_dim=3)
    assert network(columns.transform(frame)).shape[0] == 6
    inputs = network.input
    heads = pk.TaskHeads([pk.BinaryHead("click")])
    model = pk.MultiTaskModel(inputs, heads(pk.PLEBlock(1, heads, [3])(network(inputs))))
    assert model.predict_on_batch(columns.transform(frame))["click"].shape == (6, 1)


# Numbers. The mean of the ages is 30, and they end at 10 and 50, as in training.


@pytest.fixture
def with_numbers(frame):
    """Return columns of an age, a time and votes, and rows with ages that are far off."""
    numbers = frame.assign(time=1.7e9 + np.arange(6.0))
    columns = pk.Columns(numbers=["age", "time"], logs=["votes"]).fit(numbers)
    with pytest.warns(UserWarning, match="outside of the limits in scales.*: age"):
        return columns, columns.transform(numbers.assign(age=[30, None, 1e30, -1e30, 25, 50]))


@every_backend
def test_numbers_are_limited_to_the_range_in_training(with_numbers, tmp_path):
    columns, x = with_numbers
    expected = (np.array([30, 30, 50, 10, 25, 50]) - 30) / np.std([30, 40, 40, 20, 20])
    plain = columns.network()
    for network in (plain, loaded(plain, tmp_path)):
        features = network.predict_on_batch(x)
        np.testing.assert_allclose(features[:, 0], expected, rtol=1e-5)
        assert features[:, 3].tolist() == [0, 1, 0, 0, 0, 0]
    columns.quantiles["age"][-1] = 1e300  # far in the tail
    assert columns.network().predict_on_batch(x)[2, 0] == 5
    assert np.isfinite(columns.network(number_embedding_dim=3).predict_on_batch(x)).all()


@every_backend
def test_embedded_numbers_stand_next_to_the_plain_ones(with_numbers, tmp_path):
    columns, x = with_numbers
    network = columns.network(number_embedding_dim=3)
    embedded, plain = network.predict_on_batch(x), columns.network().predict_on_batch(x)
    assert embedded.shape == (6, 3 + 3 * 3 + 3)
    np.testing.assert_array_equal(embedded[:, [0, 1, 2, 12, 13, 14]], plain)
    age = embedded[:, 3:6]  # which is missing in row 1, and ends at 50 and 10
    np.testing.assert_array_equal(age[[2, 1]], age[[5, 3]])
    np.testing.assert_array_equal(loaded(network, tmp_path).predict_on_batch(x), embedded)


@every_backend
def test_the_bins_of_numbers_are_their_quantiles(with_numbers):
    columns, x = with_numbers
    layers = columns.network(number_embedding_dim=3).layers
    (layer,) = [each for each in layers if isinstance(each, pk.NumberEmbedding)]
    assert [len(row) for row in layer.bin_boundaries] == [5, 6, 4]
    place = pk.NumberEmbedding(1, 16, None, layer.bin_boundaries)  # of ones: the sum over bins
    place.build((None, 3))
    place.set_weights([np.ones((3, 16, 1)), np.zeros((3, 1)), place.get_weights()[-1]])
    shares = keras.ops.convert_to_numpy(place(np.stack([x[n] for n in columns.numbers], -1)))
    expected = [[2, 0], [0, 1], [4, 2], [0, 3], [1.5, 4], [4, 5]]  # of 10 to 50, and of seconds
    np.testing.assert_allclose(shares[:, :2], expected, atol=1e-5)


def test_streams_have_their_own_widths_of_numbers(with_numbers):
    columns, _ = with_numbers
    own = columns.network({"shared": 4, "like": 2}, number_embedding_dim=2)
    assert own["like"].output_shape == (None, 3 + 3 * 2 + 3)
    own = columns.network(number_embedding_dim={"shared": None, "like": 2})
    assert [own[stream].output_shape[1] for stream in ("shared", "like")] == [6, 12]
    with pytest.raises(ValueError, match=r"embedding_dim must have exactly the keys \['shared'\]"):
        columns.network({"like": 4}, number_embedding_dim={"shared": 4})


@every_backend
def test_a_number_with_two_values_is_not_embedded_and_packing_changes_nothing(frame, tmp_path):
    numbers = frame.assign(time=1.7e9 + np.arange(6.0), age=[1.0, 2.0, 1.0, 2.0, np.nan, 1.0])
    columns = pk.Columns(numbers=["age", "time"]).fit(numbers)
    networks = [columns.network(number_embedding_dim=2, packed=packed) for packed in (False, True)]
    networks[1].set_weights(networks[0].get_weights())
    x = [columns.transform(numbers, packed=packed) for packed in (False, True)]
    expected = networks[0].predict_on_batch(x[0])
    assert expected.shape == (6, 2 + 2 + 2)  # "age" has two values
    for network, each in zip(networks, x):
        for copy in (network, loaded(network, tmp_path)):
            np.testing.assert_array_equal(copy.predict_on_batch(each), expected)


def test_the_codes_of_other_columns_are_refused_by_the_name_of_their_column(columns, frame):
    x = columns.transform(frame)
    x = x | {"item": x["item"] + 2}
    with pytest.raises(ValueError, match=r"ids from 0 to 3 for the Embedding.*x\['item'\]"):
        pk.check_inputs(model_of(columns), x)


def test_packed_arrays_have_the_columns_side_by_side(columns, frame):
    plain = columns.transform(frame)
    for rows in (frame, frame.astype("object").to_dict("records")):
        x = columns.transform(rows, packed=True)
        assert {name: values.dtype.name for name, values in x.items()} == {
            **dict.fromkeys(("ids", "genres", "history", "title"), "int32"),
            "numbers": "float32",
        }
        np.testing.assert_array_equal(x["ids"].T, [plain["user"], plain["item"]])
        np.testing.assert_array_equal(x["numbers"].T, [plain["age"], plain["votes"]])
        np.testing.assert_array_equal(x["history"], plain["history"])
        assert all(values.flags["C_CONTIGUOUS"] for values in x.values())
    assert columns.transform([], packed=True)["ids"].shape == (0, 2)
    lists = {"ids": ("ids", 2), "ids_2": ("ids", 2)}
    named = pk.Columns(["user"], lists=lists).fit(
        frame.assign(ids=frame["genres"], ids_2=frame["genres"]), min_rows=1
    )
    x = named.transform(frame.assign(ids=frame["genres"], ids_2=frame["genres"]), packed=True)
    assert {name: values.shape[1] for name, values in x.items()} == {
        "ids": 1, "ids_2": 2, "ids_2_2": 2
    }  # fmt: skip
    assert {*named.network(packed=True).input} == {*x}
    assert {*named.network().input} == {"user", "ids", "ids_2"}


def test_a_wrong_number_in_a_packed_array_is_named_with_its_column(columns, frame):
    model = model_of(columns, packed=True)
    x = columns.transform(frame, packed=True)
    pk.check_inputs(model, x)
    wrong = x | {"ids": x["ids"] + np.array([0, 2], "int32")}
    with pytest.raises(ValueError, match=r"ids from 0 to 3 .* x\['ids'\]\['item'\]\[0\]=4"):
        pk.check_inputs(model, wrong)
    for ids in (x["ids"][:, :1], x["ids"][:, 0], x["ids"][:, [0, 1, 1]]):
        with pytest.raises(ValueError, match=r"x\['ids'\] must be \(batch, 2\)"):
            pk.check_inputs(model, x | {"ids": ids})


def test_a_model_knows_the_digest_of_its_columns_and_refuses_others(columns, frame, tmp_path):
    network, own = columns.network(), model_of(columns, {"click": 1, "time": 2})
    streams = pk.StreamFeatures(["click"], network, name="streams")
    streamed = keras.Model(network.input, streams(network.input))
    ended = keras.Model(network.input, keras.layers.Dense(2)(network.output))
    later = pk.Columns(["user", "item"], ["age"], LISTS, TEXTS, logs=["votes"]).fit(frame[1:], 2)
    x = columns.transform(frame)
    for model in (own, streamed, ended):
        copies = [keras.models.clone_model(model)] if model is own else []
        for copy in (model, *copies, loaded(model, tmp_path)):
            assert f"columns_{columns.digest}" in copy.to_json()
            pk.check_inputs(copy, x, columns=columns)
            with pytest.raises(ValueError, match=f"{later.digest}.*{columns.digest}.* in the"):
                pk.check_inputs(copy, x, columns=later)
    network.layers[-1].digest = later.digest
    pk.check_inputs(loaded(network, tmp_path), x, columns=later)
    pk.check_inputs(keras.Model(network.input, network.input["user"]), x, columns=later)
    with pytest.raises(TypeError, match="columns must be a Columns"):
        pk.check_inputs(own, x, columns="c.json")


def test_widths_are_checked(columns):
    with pytest.raises(ValueError, match="embedding_dim must be at least 1"):
        columns.network(0)
    for width in ("16", {"shared": 16.0}):
        with pytest.raises(TypeError, match="embedding_dim must be an integer"):
            columns.network(width)
    for units in (0, {"shared": None, "click": 0}):
        with pytest.raises(
            ValueError, match=r"number_embedding_dim must be at least 1\. Received: numb"
        ):
            columns.network(number_embedding_dim=units)
    with pytest.raises(ValueError, match=r"dropout must be .* below 1\. Received: dropout=1"):
        columns.network(dropout=1)


@pytest.mark.parametrize("width", [4, {"shared": 4, "click": 2}])
def test_a_block_on_the_output_of_its_network_is_refused(columns, width):
    network, heads = columns.network(width), pk.TaskHeads([pk.BinaryHead("click")])
    output = (network if width == 4 else network["click"]).output
    with pytest.raises(ValueError, match=r"call the block with network.input"):
        pk.HedgedBlock(heads, [4], features=network)(output)


def test_nullable_columns_are_refused_by_fit_with_their_names(columns, frame):
    x, y = columns.transform(frame), {"click": np.arange(6) % 2, "time": np.arange(6.0)}
    model = model_of(columns)
    model.compile("sgd", hedge=False)
    reason = r"\['{}'\] must contain numbers. astype\('float32'\).*dtype=Int64"
    with pytest.raises(TypeError, match="^x" + reason.format("user")):
        model.fit({**x, "user": frame["user"]}, y)
    with pytest.raises(TypeError, match="^y" + reason.format("time")):
        model.fit(x, {**y, "time": frame["user"]})


def test_a_network_needs_a_column(frame):
    columns = pk.Columns().fit(frame)
    with pytest.raises(ValueError, match="Call fit first"):
        columns.network()
