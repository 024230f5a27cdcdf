"""KerasRS embeddings before a PLE."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, assert_all_close
from tests.models import compiled, loaded
from tests.optimizers.tables import arrays

keras_rs = pytest.importorskip("keras_rs")

ROWS, USERS = 8, 5


def users():
    """Return a `DistributedEmbedding` with a table of users."""
    table = keras_rs.layers.TableConfig("users", USERS, 4, placement="default_device")
    feature = keras_rs.layers.FeatureConfig(
        "user", table, input_shape=(None, 1), output_shape=(None, 4)
    )
    return keras_rs.layers.DistributedEmbedding({"user": feature})


def model_of_embeddings():
    """Return a model of a user."""
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", metrics=[]), pk.RegressionHead("time", metrics=[])]
    )
    inputs = {"user": keras.Input((1,), dtype="int32", name="user")}
    model = pk.MultiTaskModel(inputs, heads(pk.PLEBlock(1, heads, [4])(users()(inputs)["user"])))
    return compiled(model, pk.table_optimizer("adam"), **QUICK)


def test_embeddings_are_trained_and_saved_with_the_block(tmp_path):
    x = {"user": np.arange(ROWS, dtype="int32")[:, None] % USERS}
    y = {"click": np.arange(ROWS) % 2, "time": np.where(np.arange(ROWS) % 3, 1.0, np.nan)}
    model = model_of_embeddings()
    (table,) = [w for w in model.trainable_weights if w.shape[0] == USERS]
    before = np.array(table)
    model.fit(x, y, verbose=0)
    assert not np.allclose(table, before)
    predictions = model.predict(x, verbose=0)
    copy = loaded(model, tmp_path)
    copy.run_eagerly = model.run_eagerly
    assert np.isfinite([*predictions.values()]).all()
    np.testing.assert_equal(copy.predict(x, verbose=0), predictions)
    for each in (model, copy):  # Adam trains the tables of KerasRS
        each.fit(x, y, verbose=0)
    assert_all_close(arrays(model), arrays(copy), atol=1e-6)
