"""`check_inputs`: checks of features before training."""

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.helpers import every_backend, once
from tests.models import compiled, heads_alone
from tests.refusals import all_refused

pytestmark = once

no_warning = pytest.mark.filterwarnings("error::UserWarning")
ROWS = 1500  # more rows than one call of the model has


def features(**columns):
    rng = np.random.default_rng(0)
    return {
        "city": rng.integers(0, 10, ROWS),
        "tags": rng.integers(0, 7, (ROWS, 3)),
        "numbers": rng.normal(size=(ROWS, 2)).astype("float32"),
        **columns,
    }


def with_value(name, index, value):
    array = features()[name]
    array[index] = value
    return features(**{name: array})


def parts():
    """Return the layers of the models in this file."""
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.RegressionHead("b")])
    block = pk.PLEBlock(1, heads, [4], name="ple", enable_gate_weights_metrics=True)
    tables = [
        keras.layers.Embedding(10, 2, name="city_table"),
        keras.layers.Embedding(7, 2, name="tag_table"),
    ]
    return tables, block, heads


def functional(scale=None):
    """Return a model with tables for "city" and for "tags", which passes through reshapes."""
    inputs = {
        "city": keras.Input((), dtype="int32", name="city"),
        "tags": keras.Input((3,), dtype="int32", name="tags"),
        "numbers": keras.Input((2,), name="numbers"),
    }
    (city, tag), block, heads = parts()
    submodel = keras.Sequential([keras.layers.Reshape((3, 1)), tag, keras.layers.Flatten()])
    numbers = scale(inputs["numbers"]) if scale else inputs["numbers"]
    x = keras.layers.Concatenate()([city(inputs["city"]), submodel(inputs["tags"]), numbers])
    return pk.MultiTaskModel(inputs, heads(block(x)))


class Subclassed(pk.MultiTaskTraining, keras.Model):
    """The same in a subclass, which is built by its first call."""

    def __init__(self):
        super().__init__()
        self.tables, self.block, self.heads = parts()

    def call(self, x):
        city, tags = self.tables[0](x["city"]), self.tables[1](x["tags"])
        x = keras.ops.concatenate([city, tags[:, 0], tags[:, 1], x["numbers"]], axis=-1)
        return self.heads(self.block(x))


@pytest.fixture(scope="module", params=[functional, Subclassed])
def model(request):
    return request.param()


@every_backend
@no_warning
def test_valid_features_are_accepted(model):
    pk.check_inputs(model, features())
    pk.check_inputs(model, features(city=pd.Series(features()["city"])))


@pytest.mark.parametrize("is_hedged", [False, pytest.param(True, marks=once)])
def test_tables_inside_copies_of_features_and_of_several_columns_are_found(is_hedged):
    inputs = {name: keras.Input((2,), dtype="int32", name=name) for name in ("a", "b")}
    table, both = pk.SparseEmbedding(4, 2, name="table"), keras.layers.Concatenate()
    network = keras.Model(inputs, keras.layers.Flatten()(table(both(list(inputs.values())))))
    copies = pk.StreamFeatures(["click"], network)
    if is_hedged:
        copies = pk.HedgedBlock(["click"], [3], features=network)
    model = keras.Model(inputs, copies(inputs))
    x = {"a": np.array([[0, 1], [2, 3]]), "b": np.array([[0, 1], [2, 4]])}
    with pytest.raises(ValueError, match=r"from 0 to 3 for .*'table'\. .*x\['b'\]\[1, 1\]=4"):
        pk.check_inputs(model, x)


@every_backend
def test_ids_that_the_model_computes_or_selects_are_its_own():
    inputs = keras.Input((2,), dtype="int32", name="ids")
    table = keras.layers.Embedding(4, 2)
    model = keras.Model(inputs, table(inputs % 4) + table(inputs[:, :1]))
    pk.check_inputs(model, np.array([[0, 7], [3, 4]]))


def test_an_id_in_an_input_of_floats_must_be_whole():
    inputs = keras.Input((), name="city")
    model = keras.Model(inputs, pk.SparseEmbedding(10, 1, name="table")(inputs))
    with pytest.raises(ValueError, match=r"x must have ids from 0 to 9 .* x\[1\]=2\.5"):
        pk.check_inputs(model, np.array([3.0, 2.5, 4.0], "float32"))


@every_backend
def test_numbers_that_the_model_replaces_may_be_nan():
    inputs = keras.Input((1,))
    filled = keras.ops.where(keras.ops.isnan(inputs), 0.0, inputs)
    pk.check_inputs(keras.Model(inputs, filled), np.array([[1.0], [np.nan]]))


def test_finite_values_with_an_infinite_prediction_are_shown():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.ops.exp(inputs))
    with pytest.raises(ValueError, match=r"of row 2 are not\. Received: finite numbers$"):
        pk.check_inputs(model, np.array([[1, 1], [1, 1], [1, 400.0]]))


def test_inputs_in_a_list_may_come_by_name():
    inputs = [keras.Input((), dtype="int32", name="city"), keras.Input((2,), name="numbers")]
    table = keras.layers.Embedding(10, 2, name="table")
    model = keras.Model(inputs, table(inputs[0]) + inputs[1])
    city, numbers = np.array([0, 10]), np.ones((2, 2))
    for x in ({"numbers": numbers, "city": city}, [city, numbers]):
        with pytest.raises(ValueError, match=r"from 0 to 9 for the Embedding 'table'.*\[1\]=10"):
            pk.check_inputs(model, x)


X = features()
REFUSED = {
    "nan": (
        with_value("numbers", (1403, 1), np.nan),
        r"finite.* row 1403 are not\. .*: x\['numbers'\]\[1403, 1\]=nan$",
    ),
    "id": (with_value("city", 1401, 10), r"from 0 to 9 .*'city_table'\. .*x\['city'\]\[1401\]=10$"),
    "strings": (features(city=np.array(["Rome"] * ROWS)), r"(?s)x must be valid input for"),
    "lists": ({"city": [0, 1]}, TypeError, r"x must be arrays.*Received: x=\{'city': \[0, 1\]\}"),
    "column": ({**X, "age": X["city"]}, r"missing: \[\], unknown: \['age'\]"),
    "no_row": ({name: of[:0] for name, of in X.items()}, "at least one row"),
    "iterator": (iter([X]), "x must be finite and iterable more than once"),
}


test_invalid_features_are_refused = all_refused(lambda x: pk.check_inputs(functional(), x), REFUSED)


def test_a_failing_model_is_reported():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.build((None, 3))
    with pytest.raises(ValueError, match=r"(?s)x must be valid input.*x\.shape=\(2, 4\)"):
        pk.check_inputs(model, np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"(?s)x must be valid input.*'city': \(2,\)"):
        pk.check_inputs(Subclassed(), {"city": np.zeros(2, int)})


def batches(**wrong):
    """Return three batches of 20 rows, the last one with different columns."""
    x = features(**wrong)
    parts = [{name: array[i : i + 20] for name, array in x.items()} for i in (0, 20, 40)]
    return [(part, None) for part in parts]


def test_batches_are_checked():
    empty = {name: array[:0] for name, array in X.items()}
    pk.check_inputs(functional(), [(empty, None), *batches()])
    x = with_value("city", 45, 12)
    with pytest.raises(ValueError, match=r"^x must have ids .*Received: x\['city'\]\[5\]=12"):
        pk.check_inputs(functional(), batches(**x))
    pk.check_inputs(functional(), batches(**x), steps=2)


def test_a_standardized_head_that_is_not_adapted_is_named():
    model = heads_alone(pk.TaskHeads([pk.RegressionHead("time", standardize=True)]))
    with pytest.raises(ValueError, match=r"The head of 'time' .*Call adapt\(y\)"):
        pk.check_inputs(model, np.ones((2, 3)))


@every_backend
def test_the_model_stays_as_it_was(model):
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    pk.check_inputs(model, features())
    before = model.get_weights()
    pk.check_inputs(model, features())
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()][: len(nodes)] == nodes
    np.testing.assert_equal(model.get_weights(), before)
    x = {name: array[:32] for name, array in features().items()}
    y = {"a": np.arange(32) % 2, "b": x["numbers"][:, 0]}
    assert np.isfinite(compiled(model).fit(x, y, verbose=0).history["loss"]).all()


@every_backend
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has strings")
def test_strings_are_accepted_by_an_input_of_strings():
    city = keras.Input((), dtype="string", name="city")
    ids = keras.layers.StringLookup(vocabulary=["Rome"])(city)
    model = keras.Model({"city": city}, keras.layers.Embedding(2, 2)(ids))
    pk.check_inputs(model, {"city": np.array(["Rome", "Oslo"], dtype=object)})
