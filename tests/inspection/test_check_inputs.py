"""`check_inputs`: checks of features before training."""

import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.helpers import numpy_of, once
from tests.models import compiled

ROWS = 1500  # more than one call of the model has


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
    """Return the layers of the models below."""
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


def test_valid_features_are_accepted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pk.check_inputs(model, features())
        pk.check_inputs(model, features(city=pd.Series(features()["city"])))


@once
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            with_value("city", 1401, 10),
            r"x\['city'\] must be ids from 0 to 9 for the Embedding '.*city_table'\. "
            r"Received: x\['city'\]\[1401\]=10",
        ),
        (with_value("tags", (1402, 1), -1), r"0 to 6 .*x\['tags'\]\[1402, 1\]=-1"),
        (
            with_value("numbers", (1403, 1), np.nan),
            r"x\['numbers'\] must be finite, .*invalid: 1\. Received: .*\[1403, 1\]=nan",
        ),
        (with_value("numbers", (1404, 0), -np.inf), r"x\['numbers'\]\[1404, 0\]=-inf"),
    ],
)
def test_errors_name_the_input_the_row_and_the_value(model, x, message):
    with pytest.raises(ValueError, match=message):
        pk.check_inputs(model, x)


def test_ids_that_the_model_computes_are_found_by_the_row():
    ids = keras.Input((), dtype="int32", name="ids")
    model = keras.Model(ids, keras.layers.Embedding(4, 2, name="table")(ids * 2))
    with pytest.raises(ValueError, match=r"Received: id in row 1450=6"):
        pk.check_inputs(model, np.where(np.arange(ROWS) == 1450, 3, 0))


@pytest.mark.parametrize("value", [2**32 + 3, -(2**32), 2**31, 2.5, 3.25])
def test_an_id_that_becomes_another_one_in_the_dtype_of_the_input_is_refused(value):
    city, age = keras.Input((), dtype="int32", name="city"), keras.Input((), name="age")
    table = pk.SparseEmbedding(10, 1, name="table")
    model = keras.Model({"city": city, "age": age}, table(city)[:, 0] + age)
    cities = features()["city"].astype("float64" if value % 1 else "int64")
    x = {"age": cities / 3, "city": np.where(np.arange(ROWS) == 1100, value, cities)}
    with pytest.raises(
        ValueError,
        match=r"x\['city'\] must be ids from 0 to 9 for the Embedding 'table'\. "
        rf"Received: x\['city'\]\[1100\]={value}",
    ):
        pk.check_inputs(model, x)


@once
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_no_id_in_any_dtype_of_the_input(dtype, value):
    city = keras.Input((), dtype=dtype, name="city")
    model = keras.Model({"city": city}, keras.layers.Embedding(256, 2)(city))
    x = {"city": np.where(np.arange(ROWS) == 1100, value, 3.0)}
    with pytest.raises(ValueError, match=rf"x\['city'\] must be finite, .*\[1100\]={value}"):
        pk.check_inputs(model, x)


@once
@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, r"x must be finite, .*x\[1100\]=nan"), (2.5, r"x must be ids .*x\[1100\]=2\.5")],
)
def test_a_sequential_model_has_the_dtype_of_its_input(value, message):
    city = keras.Input((), dtype="uint8", name="city")
    model = keras.Sequential([city, keras.layers.Embedding(256, 2)])
    with pytest.raises(ValueError, match=message):
        pk.check_inputs(model, np.where(np.arange(ROWS) == 1100, value, 3.0))


def test_a_fraction_is_no_id_in_a_model_without_dtypes_of_inputs():
    model = keras.Sequential([pk.SparseEmbedding(10, 1, name="table")])
    with pytest.raises(ValueError, match=r"x must be ids from 0 to 9 .* x\[1\]=2\.5"):
        pk.check_inputs(model, np.array([3.0, 2.5, 4.0], "float32"))


def test_numbers_that_the_model_replaces_may_be_nan():
    inputs = keras.Input((1,))
    filled = keras.ops.where(keras.ops.isnan(inputs), 0.0, inputs)
    pk.check_inputs(keras.Model(inputs, filled), np.array([[1.0], [np.nan]]))


def test_a_wrong_id_is_found_next_to_numbers_that_the_model_replaces():
    city, age = keras.Input((), dtype="int32", name="city"), keras.Input((2,), name="age")
    outputs = keras.layers.Embedding(4, 2)(city) + keras.ops.nan_to_num(age)
    x = {"city": np.array([0, 4]), "age": np.array([[np.nan, 1.0], [2.0, 3.0]])}
    with pytest.raises(
        ValueError, match=r"x\['city'\] must be ids .* Received: x\['city'\]\[1\]=4"
    ):
        pk.check_inputs(keras.Model({"city": city, "age": age}, outputs), x)


REFUSED = {
    "missing": (
        {"city": np.zeros(2, int), "numbers": np.zeros((2, 2))},
        ValueError,
        r"x must have exactly the keys \['city', 'tags', 'numbers'\]; missing: \['tags'\]",
    ),
    "unknown": (features(extra=np.zeros(ROWS)), ValueError, r"unknown: \['extra'\]"),
    "shape": (
        features(numbers=np.zeros((ROWS, 1))),  # Keras trains on it
        ValueError,
        r"x\['numbers'\] must have a shape \(batch, 2\).*\.shape=\(1500, 1\)",
    ),
    "strings": (
        features(city=np.array(["Rome"] * ROWS)),
        TypeError,
        r"x\['city'\] must hold numbers.*integer codes.*Received: x\['city'\]\[0\]='Rome'",
    ),
    "objects": (
        features(numbers=np.array([[1.0, 2.0]] * (ROWS - 1) + [[1.0, None]])),
        TypeError,
        r"x\['numbers'\] must hold numbers.*astype.*Received: x\['numbers'\]\[1499, 1\]=None",
    ),
    "rows": (features(city=np.zeros(3, int)), ValueError, r"same number of rows.*rows=\[3, 1500\]"),
    "empty": (
        {name: array[:0] for name, array in features().items()},
        ValueError,
        r"at least 1\. Received: rows=\[0\]",
    ),
    "lists": ({"city": [0, 1]}, TypeError, r"x must be arrays.*Received: x=\{'city': \[0, 1\]\}"),
    "iterator": (iter([features()]), ValueError, r"x must be data that can be read more than once"),
}


@once
@pytest.mark.parametrize(("x", "error", "message"), list(REFUSED.values()), ids=list(REFUSED))
def test_invalid_features_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        pk.check_inputs(functional(), x)


@once
def test_a_failing_model_is_reported():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.build((None, 3))
    with pytest.raises(ValueError, match=r"(?s)x must be valid input.*Received: x\.shape=\(2, 4\)"):
        pk.check_inputs(model, np.zeros((2, 4)))


@once
def test_other_arguments_are_checked():
    with pytest.raises(TypeError, match=r"model must be a Keras model\. Received: model=3"):
        pk.check_inputs(3, features())
    with pytest.raises(ValueError, match=r"steps must be None if x holds arrays.*steps=2"):
        pk.check_inputs(functional(), features(), steps=2)


def income(size=ROWS):
    rng = np.random.default_rng(1)
    return np.stack([rng.normal(size=size), rng.normal(4e4, 9e3, size)], axis=1)


def adapted_to(data):
    scale = keras.layers.Normalization(name="scale")
    scale.adapt(data)
    return scale


@once
@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            None,
            r"x\['numbers'\]\[:, 1\] has a mean of 4\.04e\+04 and a standard deviation of 8\.83e",
        ),
        (keras.layers.Normalization(), r"x\['numbers'\]\[:, 1\] .*adapted to these data"),
        (adapted_to(features()["numbers"]), r"the output of 'scale'\[:, 1\] has a mean of 4"),
    ],
)
def test_a_column_that_is_not_scaled_causes_a_warning(scale, message):
    with pytest.warns(UserWarning, match=message) as caught:
        pk.check_inputs(functional(scale), features(numbers=income()))
    shown = [warning for warning in caught if warning.category is UserWarning]
    assert {warning.filename for warning in shown} == {__file__}
    assert all("the layer 'ple/cgc_block_0' reads it" in str(each.message) for each in shown)


@once
@pytest.mark.parametrize(
    "scale",
    [
        adapted_to(income()),
        keras.layers.Rescaling([1.0, 1e-4]),
        keras.layers.BatchNormalization(),
        keras.layers.Discretization([0.0, 4e4]),
    ],
    ids=["normalization", "rescaling", "batch", "discretization"],
)
def test_scaled_columns_cause_no_warning(scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pk.check_inputs(functional(scale), features(numbers=income().astype("float32")))


def test_half_precision_columns_are_recognized():
    keras.config.set_dtype_policy("mixed_float16")
    with pytest.warns(UserWarning, match=r"x\['numbers'\]\[:, 1\]"):
        pk.check_inputs(functional(), features(numbers=income() / 10))


def batches(**wrong):
    """Return three batches of 20 rows, the last one with other columns."""
    x = features(**wrong)
    parts = [{name: array[i : i + 20] for name, array in x.items()} for i in (0, 20, 40)]
    return [(part, None) for part in parts]


@once
def test_errors_and_warnings_name_the_batch():
    pk.check_inputs(functional(), batches())
    x = with_value("city", 45, 12)
    with pytest.raises(
        ValueError, match=r"^In batch 3: x\['city'\].*Received: x\['city'\]\[5\]=12"
    ):
        pk.check_inputs(functional(), batches(**x))
    pk.check_inputs(functional(), batches(**x), steps=2)
    with pytest.warns(UserWarning, match=r"^In batch 1: x\['numbers'\]") as caught:
        pk.check_inputs(functional(), batches(numbers=income()))
    assert [warning.category for warning in caught].count(UserWarning) == 1


def test_the_model_stays_as_it_was(model):
    pk.check_inputs(model, features())
    before = [numpy_of(weight) for weight in model.weights]
    with pytest.raises(ValueError, match="city"):
        pk.check_inputs(model, with_value("city", 3, -2))
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy_of(weight), value)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())
    x = {name: array[:32] for name, array in features().items()}
    y = {"a": np.arange(32) % 2, "b": x["numbers"][:, 0]}
    assert np.isfinite(compiled(model).fit(x, y, verbose=0).history["loss"]).all()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has strings")
def test_strings_are_accepted_by_an_input_of_strings():
    city = keras.Input((), dtype="string", name="city")
    ids = keras.layers.StringLookup(vocabulary=["Rome"])(city)
    model = keras.Model({"city": city}, keras.layers.Embedding(2, 2)(ids))
    pk.check_inputs(model, {"city": np.array(["Rome", "Oslo"], dtype=object)})
