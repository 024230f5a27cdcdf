"""Raw columns are encoded by a `keras.utils.FeatureSpace` before a PLE.

A FeatureSpace runs in TensorFlow on every backend.
"""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, numpy_of
from tests.models import chain, compiled, loaded


@pytest.fixture(scope="module")
def tf():
    """Return TensorFlow, imported late: collecting the tests of other files would wait for it."""
    return pytest.importorskip("tensorflow")


ROWS = 12
KINDS = {
    "age": keras.utils.FeatureSpace.float_normalized,
    "device": keras.utils.FeatureSpace.integer_categorical,
    "country": keras.utils.FeatureSpace.string_categorical,
}


def columns(names):
    raw = {
        "age": np.linspace(18, 80, ROWS, dtype="float32"),
        "device": np.arange(ROWS, dtype="int32") % 4,
        "country": np.array(["de", "fr", "us"] * (ROWS // 3)),
    }
    return {name: raw[name] for name in names}


def make(tf, names):
    """Return an adapted FeatureSpace, and a model of its encoded features."""
    space = keras.utils.FeatureSpace({name: KINDS[name]() for name in names})
    space.adapt(tf.data.Dataset.from_tensor_slices(columns(names)))
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", metrics=[]), pk.RegressionHead("time", metrics=[])]
    )
    width = space.get_encoded_features().shape[-1]
    return space, compiled(chain(pk.PLEBlock(1, heads, [4]), heads, width=width))


@pytest.mark.parametrize("names", [["age", "device"], list(KINDS)], ids=["numbers", "strings"])
def test_a_feature_space_works_in_a_model_for_raw_columns(tf, names, tmp_path):
    if "country" in names and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras supports string tensors only on TensorFlow")
    space, model = make(tf, names)
    whole = keras.Model(space.get_inputs(), model(space.get_encoded_features()))
    raw = {name: tf.constant(column[:, None]) for name, column in columns(names).items()}
    expected = model.predict(numpy_of(space(columns(names))), verbose=0)
    copy = loaded(whole, tmp_path)
    assert_same(copy.predict(raw, verbose=0), expected)  # Keras refuses NumPy strings
