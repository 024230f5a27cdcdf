"""Healthy models of random tasks, one for each seed, for the warnings of task reports."""

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import QUICK

HEALTHY = range(20)  # seeds
WIDTH = 12
BLOCKS = {
    "shared_bottom": lambda heads, units: pk.SharedBottomBlock(heads, [units, units]),
    "mmoe": lambda heads, units: pk.MMoEBlock(heads, [units], 4),
    "cgc": lambda heads, units: pk.CGCBlock(heads, [units], 2, add_shared_gate=False),
    "ple": lambda heads, units: pk.PLEBlock(2, heads, [units]),
    "isolated": lambda heads, units: pk.PLEBlock(2, heads, [units], isolate_task_experts=True),
}
KINDS = ["binary", "regression", "classes"]


def labels_of(kind, signal, rng, rate):
    """Return labels whose distribution is a function of a signal with a deviation of 1."""
    noise = rng.normal(size=len(signal))
    if kind == "regression":
        return signal + 0.5 * noise
    score = 2 * signal + rng.logistic(size=len(signal))
    if kind == "binary":
        return (score > np.quantile(score, 1 - rate)).astype("float32")
    return np.digitize(score, np.quantile(score, [1 / 3, 2 / 3])).astype("float32")


def healthy_data(rng, kinds, rows, related):
    """Return features, and labels of related tasks with 30% to 100% of the labels."""
    x = rng.normal(size=(rows, WIDTH)).astype("float32")
    hidden = np.tanh(x @ rng.normal(size=(WIDTH, 6)) / 3)
    common = hidden @ rng.normal(size=6)
    y = {}
    for index, kind in enumerate(kinds):
        own = hidden @ rng.normal(size=6)
        signal = related * common + (1 - related) * own
        labels = labels_of(kind, signal / signal.std(), rng, rng.uniform(0.03, 0.5))
        if index:  # the first task has all labels
            labels = np.where(rng.uniform(size=rows) < rng.uniform(0.3, 1), labels, np.nan)
        y[f"{kind}_{index}"] = labels
    return x, y


def new_head(task):
    kind = task.split("_")[0]
    if kind == "binary":
        return pk.BinaryHead(task)
    if kind == "regression":
        return pk.RegressionHead(task)
    return pk.MulticlassHead(task, num_classes=3)


def healthy_model(seed, rows=8000, epochs=6):
    """Return a trained model, its training data and its validation data."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    kinds = rng.choice(KINDS, size=rng.integers(2, 5))
    x, y = healthy_data(rng, kinds, rows, related=rng.uniform(0, 1))
    heads = pk.TaskHeads([new_head(task) for task in y])
    block = BLOCKS[list(BLOCKS)[seed % len(BLOCKS)]](heads, int(rng.integers(16, 33)))
    inputs = keras.Input((WIDTH,))
    model = pk.MultiTaskModel(inputs, heads(block(keras.layers.Dense(24, "relu")(inputs))))
    optimizer = keras.optimizers.Adam(float(rng.choice([0.001, 0.003])))
    model.compile(optimizer, **QUICK)
    parts = [slice(0, 3 * rows // 4), slice(3 * rows // 4, rows)]
    train, validation = [(x[p], {task: of[p] for task, of in y.items()}) for p in parts]
    model.fit(*train, batch_size=int(rng.choice([64, 128])), epochs=epochs, verbose=0)
    return model, train, validation
