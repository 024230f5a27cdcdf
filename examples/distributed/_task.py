"""Random rows with missing labels, and a model of two tasks, for several scripts."""

import keras
import numpy as np

import ple_keras as pk

ROWS, FEATURES = 1920, 16


def make_share(process, processes, missing=2 / 3):
    """Return the features and labels of a process: every `processes`-th row.

    A share of the labels of one task is missing.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    time = np.abs(x[:, :2]).sum(axis=1)
    time[rng.random(ROWS) < missing] = np.nan
    click = (x[:, 0] > x[:, 1] * x[:, 2]).astype("float32")
    rows = slice(process, None, processes)
    return x[rows], {"click": click[rows], "time": time[rows]}


def decay(task, epoch):
    """Return the multiplier of the loss weights of all tasks."""
    return 0.9**epoch


def make_model(reduction=None):
    """Return a compiled model. It needs no changes for several processes or devices."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", reduction=reduction),
            pk.RegressionHead("time", reduction=reduction),
        ],
        loss_weighting="uncertainty",
    )
    ple = pk.PLEBlock(2, heads, [32], enable_gate_weights_metrics=True, name="ple")
    inputs = keras.Input((FEATURES,))
    model = pk.MultiTaskModel(inputs, heads(ple(inputs)))
    model.compile(keras.optimizers.Adam(0.005))
    return model
