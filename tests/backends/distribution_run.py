"""What a run on several devices trains: a PLE of two tasks, 20 steps in a fixed order.

Gates are watched, loss weights are moved and learned, and labels are missing: of a task, more in
one half of a batch than in the other.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import features
from tests.models import chain, compiled

EPOCHS, STEPS, BATCH = 10, 20, 16


def watched_ple(reduction=None, loss_weighting="uncertainty", balance=0.0):
    """Two levels of four experts."""
    keras.utils.set_random_seed(0)
    tasks = [
        pk.BinaryHead("click", reduction=reduction),
        pk.RegressionHead("time", loss_weight=2.0, reduction=reduction),
    ]
    heads = pk.TaskHeads(tasks, loss_weighting=loss_weighting, name="heads")
    kwargs = {"enable_gate_weights_metrics": True, "expert_balance_regularizer": balance}
    ple = pk.PLEBlock(2, heads, [4], num_shared_experts=2, name="ple", **kwargs)
    return compiled(chain(ple, heads), keras.optimizers.Adam(0.01, name="adam"))


def data(batches=STEPS // EPOCHS):
    """In each batch the first three eighths have no click, the last three no time."""
    x = features(batches * BATCH, 3)
    y = {"click": (x[:, 0] > 0).astype("float32"), "time": x @ np.float32([1, 2, 3])}
    place = np.arange(len(x)) % BATCH
    y["click"][place < 3 * BATCH // 8] = np.nan
    y["time"][place >= 5 * BATCH // 8] = np.nan
    return x, y


class Subclassed(keras.Model):
    """A model that makes its layers itself, and whose paths start with its name."""

    def __init__(self):
        super().__init__()
        self.heads = pk.TaskHeads([pk.BinaryHead("click")])
        self.ple = pk.PLEBlock(1, self.heads, [4], num_shared_experts=3)

    def call(self, inputs):
        return self.heads(self.ple(inputs))


def fit_watched(model, folder):
    """The logs by epoch; after the last step a callback saves the model."""
    path = Path(folder) / "{epoch:02d}.keras"
    callbacks = [
        pk.GateWeightsLogger(),
        pk.LossWeightDecay({"click": 0.95, "time": 0.9}),
        keras.callbacks.ModelCheckpoint(path, save_freq=STEPS),
    ]
    history = model.fit(
        *data(), batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks
    ).history
    return {key: [float(value) for value in values] for key, values in history.items()}


def predictions(model):
    """By task, for the rows of `data`."""
    return {task: y.tolist() for task, y in model.predict(data()[0], verbose=0).items()}


def assert_is_as_alone(logs, alone):
    """That each figure of each epoch is, and that what is compared moves at all."""
    assert logs.keys() == alone.keys()
    assert any("gate/ple/1/time" in key for key in logs)
    assert alone["loss"][-1] < alone["loss"][0]
    for key, values in alone.items():
        np.testing.assert_allclose(logs[key], values, rtol=1e-5, atol=1e-5, err_msg=key)
    assert logs["loss_weight/time"][-1] < 0.9 * logs["loss_weight/time"][0]


def write(figures):
    """Into the file that the command line names."""
    Path(sys.argv[1]).joinpath("figures.json").write_text(json.dumps(figures))
