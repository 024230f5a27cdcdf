"""A run of joint training that ends its process: `python -m tests.losses.joint_run FOLDER`.

The loss weights decay by epoch and are learned. Gates drop experts. The data have a fixed order.
"""

import os
import sys
from pathlib import Path

import keras

import ple_keras as pk
from tests.models import click_and_time, clicks_and_times

EPOCHS = 4


def new_model():
    return click_and_time(gate_dropout=0.3)


def fit_with_decay(model, epochs=EPOCHS, initial_epoch=0, callbacks=(), batch_size=4):
    """Train a model and return the logs by epoch."""
    callbacks = [*callbacks, pk.LossWeightDecay({"click": 0.5, "time": 0.9})]
    history = model.fit(
        *clicks_and_times(),
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    ).history
    return {key: [float(value) for value in values] for key, values in history.items()}


class Kill(keras.callbacks.Callback):
    """A callback that saves the model and ends the process when the third epoch begins."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.model.save(self.folder / "model.keras")
            os._exit(9)


def backup(folder):
    return keras.callbacks.BackupAndRestore(folder / "backup")


def main(folder):
    fit_with_decay(new_model(), callbacks=[backup(folder), Kill(folder)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
