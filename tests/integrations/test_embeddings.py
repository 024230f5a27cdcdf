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


class OfPreprocessed(pk.MultiTaskTraining, keras.Model):
    """A model of ids from `preprocess`, which a TPU's SparseCore needs on JAX."""

    def __init__(self):
        super().__init__()
        self.users = users()
        self.heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
        self.ple = pk.PLEBlock(1, self.heads, [4])

    def call(self, inputs, training=None):
        rows = self.users(inputs, training=training)["user"]
        return self.heads(self.ple(rows, training=training), training=training)


@pytest.mark.nightly
def test_preprocessed_ids_train_a_subclassed_model(tmp_path):
    x, y = data()
    model, other = (compiled(OfPreprocessed(), pk.table_optimizer("adam")) for _ in range(2))
    for each in (model, other):  # the first call of `preprocess` builds the layer
        each(inputs := each.users.preprocess({"user": x["user"]}, training=True))
    before = keras.ops.convert_to_numpy(model.users.trainable_weights[0])
    model.fit(((inputs, y) for _ in range(2)), steps_per_epoch=2, shuffle=False, verbose=0)
    assert not np.allclose(keras.ops.convert_to_numpy(model.users.trainable_weights[0]), before)
    model.save_weights(tmp_path / "model.weights.h5")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_equal(arrays(model), arrays(other))
