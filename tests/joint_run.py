"""A run of joint training that may be interrupted: `python -m tests.joint_run MODE FOLDER`.

The weights are moved by epoch and learned; the data come in a fixed order, without dropout.
"""

import json
import os
import sys
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import QUICK_JIT, features

EPOCHS = 4


def make_model(loss_weighting="uncertainty", learning_rate=0.05, **compile_kwargs):
    """Two tasks, one of them with a third of its labels missing."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads(
        [pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=2.0)],
        loss_weighting=loss_weighting,
    )
    inputs = keras.Input((3,))
    model = keras.Model(inputs, heads(pk.PLEBlock(1, heads, [4])(inputs)))
    optimizer = keras.optimizers.Adam(learning_rate)
    kwargs = {"jit_compile": QUICK_JIT, **compile_kwargs}
    model.compile(**heads.compile_kwargs(optimizer=optimizer, **kwargs))
    return model


def data():
    """12 rows."""
    y = {"click": np.arange(12) % 2, "time": np.arange(12, dtype="float32")[:, None] / 6}
    y["time"][::3] = np.nan
    return features(12, 3), y


def fit(model, epochs=EPOCHS, initial_epoch=0, callbacks=(), batch_size=4):
    """The logs by epoch."""
    callbacks = [*callbacks, pk.LossWeightDecay({"click": 0.5, "time": 0.9})]
    history = model.fit(
        *data(),
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    ).history
    return {key: [float(value) for value in values] for key, values in history.items()}


class Kill(keras.callbacks.Callback):
    """Ends the process as the third epoch begins."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            os._exit(9)


def main(mode, folder):
    """Go on from a saved model, be killed, or be restored."""
    folder = Path(folder)
    if mode == "go_on":
        model = keras.models.load_model(folder / "model.keras")
        logs = fit(model, initial_epoch=2)
    else:
        backup = keras.callbacks.BackupAndRestore(folder / "backup")
        callbacks = [backup, Kill()] if mode == "be_killed" else [backup]
        logs = fit(make_model(), callbacks=callbacks)
    (folder / f"{mode}.json").write_text(json.dumps(logs))


if __name__ == "__main__":
    main(*sys.argv[1:])
