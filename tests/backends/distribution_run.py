"""Training for several devices: a PLE of three tasks, 20 steps in a fixed order.

Gates keep statistics, loss weights are scheduled and learned, and labels are missing. Each task
lacks more labels in one half of a batch than in the other. One head has three targets.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import features
from tests.models import branched, chain, compiled

EPOCHS, STEPS, BATCH = 10, 20, 16


def tracked_ple(reduction=None, loss_weighting="uncertainty", balance=0.0):
    """Return a model with two levels of four experts whose gates keep statistics."""
    keras.utils.set_random_seed(0)
    tasks = [
        pk.BinaryHead("click", reduction=reduction),
        pk.RegressionHead("time", loss_weight=2.0, reduction=reduction),
        pk.BinaryHead("assays", units=3, reduction=reduction or "by_target"),
    ]
    heads = pk.TaskHeads(tasks, loss_weighting=loss_weighting, name="heads")
    kwargs = {"enable_gate_weights_metrics": True, "gate_kwargs": {"balance_regularizer": balance}}
    ple = pk.PLEBlock(2, heads, [4], num_shared_experts=1, name="ple", **kwargs)
    return compiled(chain(ple, heads), keras.optimizers.Adam(0.01, name="adam"))


def hedged_model():
    """Return a model with a HedgedBlock."""
    keras.utils.set_random_seed(0)
    assays = pk.BinaryHead("assays", units=3)
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time"), assays])
    return compiled(branched(heads, [4]), keras.optimizers.SGD(0.01))


def data(batches=STEPS // EPOCHS):
    """Return data. In each batch, the first 3/8 have no click label and the last 3/8 no time.

    The same holds for the first and the last assay.
    """
    x = features(batches * BATCH, 3)
    y = {"click": (x[:, 0] > 0).astype("float32"), "time": x @ np.float32([1, 2, 3])}
    y["assays"] = (features(len(x), 3, seed=1) > 0).astype("float32")
    place = np.arange(len(x)) % BATCH
    is_first, is_last = place < 3 * BATCH // 8, place >= 5 * BATCH // 8
    y["click"][is_first] = y["assays"][is_first, 0] = np.nan
    y["time"][is_last] = y["assays"][is_last, 2] = np.nan
    return x, y


def fit_with_callbacks(model, folder):
    """Return the logs by epoch. A callback saves the model after the last step."""
    path = Path(folder) / "{epoch:02d}.keras"
    gammas = {"click": 0.95, "time": 0.9, "assays": 1}
    callbacks = [
        pk.GateWeightsLogger(),
        pk.LossWeightSchedule(lambda task, epoch: gammas[task] ** epoch),
        keras.callbacks.ModelCheckpoint(path, save_freq=STEPS),
    ]
    history = model.fit(
        *data(), batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks
    ).history
    return {key: [float(value) for value in values] for key, values in history.items()}


def predictions(model):
    """Return the predictions for the rows of `data`, by task."""
    return {task: y.tolist() for task, y in model.predict(data()[0], verbose=0).items()}


def assert_equal_logs(logs, alone):
    """Assert that the logs of every epoch are equal, and that training changed them."""
    assert logs.keys() == alone.keys()
    assert any("gate/ple/1/time" in key for key in logs)
    assert alone["loss"][-1] < alone["loss"][0]
    for key, values in alone.items():
        np.testing.assert_allclose(logs[key], values, rtol=1e-5, atol=1e-5, err_msg=key)
    assert logs["loss_weight/time"][-1] < 0.9 * logs["loss_weight/time"][0]


def write(figures):
    """Write the figures to the folder that the command line names."""
    Path(sys.argv[1]).joinpath("figures.json").write_text(json.dumps(figures))
