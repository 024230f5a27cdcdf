"""Small models with embedding tables, and ids that batches contain several times."""

import keras
import numpy as np

import ple_keras as pk
from ple_keras.layers.sparse_embedding import TableInitializer
from ple_keras.optimizers import sparse_adagrad
from tests.helpers import QUICK, numpy_of
from tests.models import compiled

ROWS, COUNT = 9, 12
IS_JAX = keras.backend.backend() == "jax"


def ids(count=COUNT, seed=0):
    """Return ids of two columns. Most rows of the last batch are new."""
    rng = np.random.default_rng(seed)
    return {c: rng.integers(0, ROWS - 3, count).astype("int32") for c in ("user", "item")}


def labels(count=COUNT, seed=1):
    rng = np.random.default_rng(seed)
    click = rng.integers(0, 2, count).astype("float32")
    return {"click": click, "buy": np.where(click == 1, rng.integers(0, 2, count), np.nan)}


def embedding(**kwargs):
    return pk.SparseEmbedding(ROWS, 3, **kwargs)


def keras_embedding(**kwargs):
    return keras.layers.Embedding(ROWS, 3, TableInitializer(stddev=0.01), **kwargs)


def dense_embedding(**kwargs):
    """Return Keras's layer. With a regularizer, its gradient is dense on TensorFlow too."""
    return keras_embedding(embeddings_regularizer=keras.regularizers.L2(0.0), **kwargs)


def small(optimizer, make=embedding, **kwargs):
    """Return a compiled model of a table that two columns read, and a Dense layer."""
    keras.utils.set_random_seed(0)
    layers = [make(name="table"), keras.layers.Flatten(), keras.layers.Dense(1, name="dense")]
    model = keras.Sequential([keras.Input((2,), dtype="int32"), *layers])
    model.compile(optimizer, "mse", **{**QUICK, **kwargs})
    return model


def train_small(model, steps=3):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x = rng.integers(0, ROWS - 3, (COUNT, 2)).astype("int32")
        model.train_on_batch(x, rng.normal(size=(COUNT, 1)))


def build(optimizer, make=embedding, shared=False, hedged=False, **kwargs):
    """Return a compiled PLE or HedgedBlock on two columns, with a table for each or for both."""
    keras.utils.set_random_seed(0)
    inputs = {c: keras.Input((), dtype="int32", name=c) for c in ids()}
    table = make(name="both")
    rows = [(table if shared else make(name=f"of-{c}"))(x) for c, x in inputs.items()]
    heads = pk.TaskHeads([pk.BinaryHead("click", metrics=[]), pk.BinaryHead("buy", metrics=[])])
    block = pk.HedgedBlock(heads, [3]) if hedged else pk.PLEBlock(1, heads, [3], name="ple")
    features = block(keras.layers.Concatenate()(rows))
    return compiled(pk.MultiTaskModel(inputs, heads(features)), optimizer, **{**QUICK, **kwargs})


def fit_labeled(model, rank=0, ranks=1):
    """Train on a share of each batch, without missing labels, whose means depend on the share."""
    click = labels(48)["click"]
    rows = np.arange(48).reshape(-1, ranks, COUNT // ranks)[:, rank].ravel()
    x = {column: values[rows] for column, values in ids(48).items()}
    y = {"click": click[rows], "buy": 1 - click[rows]}
    model.fit(x, y, batch_size=COUNT // ranks, epochs=2, shuffle=False, verbose=0)
    return [array.tolist() for array in model.get_weights()]


def train(model, steps=3, seed=0):
    for step in range(steps):
        model.train_on_batch(ids(seed=seed + step), labels(seed=seed + step))


def arrays(model):
    """Return the weights and the optimizer state."""
    return [numpy_of(v) for v in (*model.weights, *model.optimizer.variables)]


def difference(one, other):
    """Return the largest difference in a weight or in the optimizer state."""
    pairs = zip(arrays(one), arrays(other), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


def record_rows(monkeypatch):
    """Return a list that collects the number of rows of each update by rows."""
    counts, backend = [], keras.backend.backend()
    update = sparse_adagrad.UPDATE[backend]

    def recorded(table, sums, rows, *others):
        counts.append(rows.shape[0])
        update(table, sums, rows, *others)

    monkeypatch.setitem(sparse_adagrad.UPDATE, backend, recorded)
    return counts
