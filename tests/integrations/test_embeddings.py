"""KerasRS embeddings before a PLE."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, assert_all_close, features
from tests.models import compiled, loaded
from tests.optimizers.tables import arrays

keras_rs = pytest.importorskip("keras_rs")

ROWS, USERS, ITEMS, SEEN = 8, 5, 7, 3


def users():
    """Return a `DistributedEmbedding` with a table of users."""
    table = keras_rs.layers.TableConfig("users", USERS, 4, placement="default_device")
    feature = keras_rs.layers.FeatureConfig(
        "user", table, input_shape=(None, 1), output_shape=(None, 4)
    )
    return keras_rs.layers.DistributedEmbedding({"user": feature})


def model_of_embeddings():
    """Return a model of a user, a variable number of seen items, and two numbers."""
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", metrics=[]), pk.RegressionHead("time", metrics=[])]
    )
    inputs = {
        "user": keras.Input((1,), dtype="int32", name="user"),
        "items": keras.Input((SEEN,), dtype="int32", name="items"),
        "numbers": keras.Input((2,), name="numbers"),
    }
    seen = keras.ops.cast(inputs["items"] > 0, "float32")
    items = keras_rs.layers.EmbedReduce(ITEMS, 4)(inputs["items"], seen)
    user = users()({"user": inputs["user"]})["user"]
    joined = keras.layers.Concatenate()([user, items, inputs["numbers"]])
    model = pk.MultiTaskModel(inputs, heads(pk.PLEBlock(1, heads, [4])(joined)))
    return compiled(model, pk.table_optimizer("adam"), **QUICK)


def data():
    rng = np.random.default_rng(0)
    x = {
        "user": rng.integers(0, USERS, (ROWS, 1)).astype("int32"),
        "items": rng.integers(0, ITEMS, (ROWS, SEEN)).astype("int32"),
        "numbers": features(ROWS, 2),
    }
    return x, {"click": np.arange(ROWS) % 2, "time": np.where(np.arange(ROWS) % 3, 1.0, np.nan)}


def test_embeddings_are_trained_and_saved_with_the_block(tmp_path):
    x, y = data()
    model = model_of_embeddings()
    tables = [w for w in model.trainable_weights if w.shape[0] in (USERS, ITEMS)]
    assert len(tables) == 2
    before = [np.array(table) for table in tables]
    model.fit(x, y, verbose=0)
    for table, start in zip(tables, before):
        assert not np.allclose(table, start)
    predictions = model.predict(x, verbose=0)
    copy = loaded(model, tmp_path)
    copy.run_eagerly = model.run_eagerly
    assert np.isfinite([*predictions.values()]).all()
    np.testing.assert_equal(copy.predict(x, verbose=0), predictions)
    for each in (model, copy):  # Adam trains the tables of KerasRS
        each.fit(x, y, verbose=0)
    assert_all_close(arrays(model), arrays(copy), atol=1e-6)
