"""Resume a killed training run at the step where it was.

    pip install -e ".[jax]"   # or ".[torch]", or ".[tensorflow]"
    KERAS_BACKEND=jax python examples/resume.py             # kill it, and run it again
    KERAS_BACKEND=jax python examples/resume.py --kills 10  # compare with an uninterrupted run

Takes half a minute on two cores, and three minutes with `--kills 10`. After every 50 steps, and
after each epoch, the script saves the training state to a folder. If it runs again, it continues
from there: each step trains on the same batch, with the same dropout, as without the interruption.
The logs by epoch, the epoch at which EarlyStopping stops, the branches that FitHedge keeps, and the
CSV file of gate weights are also the same.

`--kills 10` trains once without interruption, and once in processes that are killed (SIGKILL): one
after the stop, the others at random steps. It prints the largest differences.

BackupAndRestore resumes only at the start of an epoch. A model's file contains the weights, the
optimizer state, the loss weights and the seeds of blocks. `StepBackup` saves these, and also

- the number of the next batch,
- the sums of metrics and of gate weights in the current epoch,
- the seeds of other layers, such as keras.layers.Dropout,
- the state of EarlyStopping, ReduceLROnPlateau, ModelCheckpoint and FitHedge,
- the logs of past epochs.

To reuse: `Batches`, `StepBackup` with the functions below it, and `fit`.
"""

import argparse
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk

if keras.backend.backend() == "torch":
    import torch

FEATURES, SEED = 16, 0
# Attributes of callbacks that change in training. Add the attributes of your own callbacks.
STATE = {"wait", "best", "best_epoch", "best_weights", "stopped_epoch", "cooldown_counter", "kept"}


# The data


class Rows:
    """Random examples: batches by number, and a fifth for validation."""

    def __init__(self, count, batch_size):
        size = (count + count // 4, FEATURES)
        self.x = np.random.default_rng(SEED).normal(size=size).astype("float32")
        click = (self.x[:, :1] > self.x[:, 1:2] * self.x[:, 2:3]).astype("float32")
        time = np.where(click, np.abs(self.x[:, :2]).sum(axis=1, keepdims=True), np.nan)
        self.y = {"click": click, "time": time.astype("float32")}  # a time only after a click
        self.count, self.batch_size = count, batch_size
        self.steps = count // batch_size  # in an epoch
        self.validation = self.select(slice(count, None))

    def select(self, rows):
        return self.x[rows], {task: labels[rows] for task, labels in self.y.items()}

    def batch(self, number):
        """Return a batch. Its rows depend only on the number. An epoch contains each row once."""
        epoch, place = divmod(number, self.steps)
        order = np.random.default_rng([SEED, epoch]).permutation(self.count)
        return self.select(order[place * self.batch_size : (place + 1) * self.batch_size])

    def fingerprint(self):
        """Return a text that is unique to the data. For files, use the `digest` of each."""
        content = b"".join(array.tobytes() for array in [self.x, *self.y.values()])
        return hashlib.sha256(content).hexdigest()


class Batches(keras.utils.PyDataset):
    """Endless batches for `fit`, starting at a number.

    Keras reads ahead, and reads the first batches more than once. Numbered batches do not change.

    Args:
        batch: A function that returns the batch with a given number.
        first: The number of the first batch.
    """

    def __init__(self, batch, first):
        super().__init__()
        self.batch, self.first = batch, first

    @property
    def num_batches(self):
        return None  # endless

    def __getitem__(self, index):
        return self.batch(self.first + index)


# Saving and restoring


class StepBackup(keras.callbacks.Callback):
    """Callback that saves the training state to a folder, and continues from there.

    Pass it last, since it also saves the state, logs and decisions of other callbacks. It skips a
    damaged checkpoint: the training continues from the previous one, or from the start.

    Args:
        folder: The folder for the checkpoints. It keeps the last two.
        steps: The number of steps in an epoch.
        every: The number of steps between saves. It also saves at the end of each epoch.
        settings: The settings that must be unchanged to continue, as a dict for JSON.
        callbacks: The other callbacks. Their attributes that `STATE` names are saved.

    Attributes:
        epoch, step: The epoch and the step to run next, from 0.
        history: The logs of each epoch so far, including earlier processes.
        stopped: Whether a callback has stopped the training.
    """

    def __init__(self, folder, steps, every, settings, callbacks=()):
        super().__init__()
        self.folder, self.steps, self.every, self.settings = folder, steps, every, settings
        self.callbacks = callbacks
        self._with_state = [callback for callback in callbacks if STATE & vars(callback).keys()]
        self.epoch, self.step, self.history, self.stopped = 0, 0, [], False
        self._newest = newest_intact(folder)
        if self._newest:
            state = json.loads((self._newest / "state.json").read_text())
            if state["settings"] != settings:
                sys.exit(f"{folder} has a run with different settings: {state['settings']}")
            vars(self).update(state)

    @property
    def number(self):
        """The number of the next step, and of its batch, in the whole training."""
        return self.epoch * self.steps + self.step

    def on_train_begin(self, logs=None):
        if self._newest:  # callbacks have reset their state, and some restored the best weights
            self._restore()

    def on_epoch_begin(self, epoch, logs=None):
        if self.step:  # `fit` has reset the metrics, and a callback the gate statistics
            self._restore()

    def on_train_batch_begin(self, batch, logs=None):
        if keras.backend.backend() == "torch":  # dropout without a seed draws from its generator
            torch.manual_seed(self.number)

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.every == 0 and self.step < self.steps:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        self.epoch, self.step = epoch + 1, 0
        self.history.append({key: float(value) for key, value in logs.items()})
        self.stopped = self.model.stop_training
        self._save()

    def _save(self):
        checkpoint = self.folder / f"epoch-{self.epoch:05}-step-{self.step:07}"
        unfinished = checkpoint.with_suffix(".unfinished")
        unfinished.mkdir()
        self.model.save_weights(unfinished / "model.weights.h5")
        rest = (keras.ops.convert_to_numpy(variable) for variable in self._rest())
        np.savez(unfinished / "rest.npz", *rest)
        of_callbacks = [{k: v for k, v in vars(c).items() if k in STATE} for c in self._with_state]
        (unfinished / "callbacks.pickle").write_bytes(pickle.dumps(of_callbacks))
        names = ("epoch", "step", "history", "stopped", "settings")
        (unfinished / "state.json").write_text(json.dumps({k: getattr(self, k) for k in names}))
        finish(unfinished, checkpoint)
        self._newest = checkpoint
        for old in checkpoints(self.folder)[:-2]:
            shutil.rmtree(old)

    def _restore(self):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(self._newest / "model.weights.h5")
        with np.load(self._newest / "rest.npz") as rest:
            for variable, value in zip(self._rest(), rest.values(), strict=True):
                variable.assign(value)
        # Loading a pickle can run code: continue only from your own folders.
        of_callbacks = pickle.loads((self._newest / "callbacks.pickle").read_bytes())
        for callback, state in zip(self._with_state, of_callbacks, strict=True):
            vars(callback).update(state)

    def _rest(self):
        """Return the variables that model files lack, such as seeds and sums, and some others."""
        return [*self.model.non_trainable_variables, *self.model.metrics_variables]


def finish(unfinished, checkpoint):
    """Write the digests of a checkpoint's files, and rename it once everything is on disk.

    A folder with the final name is complete, even after a power failure.
    """
    (unfinished / "digests.json").write_text(json.dumps(digests(unfinished)))
    for path in [*unfinished.iterdir(), unfinished]:
        flush(path)
    unfinished.rename(checkpoint)
    flush(checkpoint.parent)


def flush(path):
    """Wait until a file, or the list of files in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digests(checkpoint):
    """Return the digests of a checkpoint's files by name."""
    names = {path.name for path in checkpoint.iterdir()} - {"digests.json"}
    return {name: digest(checkpoint / name) for name in sorted(names)}


def digest(path):
    """Return the SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoints(folder):
    return sorted(folder.glob("epoch-*[0-9]"))


def newest_intact(folder):
    """Return the newest intact checkpoint, or None.

    Damaged ones get the suffix ".damaged", so that their names are free. Unfinished ones are
    removed.
    """
    for unfinished in folder.glob("epoch-*.unfinished"):
        shutil.rmtree(unfinished)
    for checkpoint in reversed(checkpoints(folder)):
        try:
            if json.loads((checkpoint / "digests.json").read_text()) == digests(checkpoint):
                return checkpoint
        except (OSError, ValueError):  # no file, no JSON, or it can't be read
            pass
        print(f"{checkpoint} is damaged, so an earlier one is used.", file=sys.stderr)
        damaged = checkpoint.with_suffix(".damaged")
        shutil.rmtree(damaged, ignore_errors=True)  # of an earlier failure at this step
        checkpoint.rename(damaged)
    return None


def fit(model, batch, validation_data, backup, epochs):
    """Train from the last saved step to the last epoch or a stop."""
    kwargs = {"callbacks": [*backup.callbacks, backup], "shuffle": False, "verbose": 0}
    kwargs |= {"validation_data": validation_data, "validation_batch_size": 256}
    if backup.step:  # the rest of an epoch
        epoch, rest = backup.epoch, backup.steps - backup.step
        batches = Batches(batch, backup.number)
        model.fit(batches, initial_epoch=epoch, epochs=epoch + 1, steps_per_epoch=rest, **kwargs)
    batches = Batches(batch, backup.number)
    kwargs |= {"initial_epoch": backup.epoch, "steps_per_epoch": backup.steps}
    # After a stop, this trains no epoch. FitHedge restores the best branches again.
    model.fit(batches, epochs=backup.epoch if backup.stopped else epochs, **kwargs)


# The training


def make_model():
    """Return a compiled model with branches, dropout and scheduled loss weights."""
    keras.utils.set_random_seed(SEED)
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", tower=[16]), pk.RegressionHead("time", tower=[16])], name="heads"
    )
    expert = pk.ExpertBlock([32, 16], dropout=0.1)
    ple = pk.PLEBlock(
        2, heads, expert, gate_kwargs={"dropout": 0.1}, enable_gate_weights_metrics=True, name="ple"
    )
    bottom = pk.SharedBottomBlock(heads, expert, name="bottom")
    hedged = pk.HedgedBlock(heads, branches={"ple": ple, "bottom": bottom})
    inputs = keras.Input((FEATURES,))
    model = pk.MultiTaskModel(inputs, heads(hedged(keras.layers.Dropout(0.1)(inputs))))
    model.compile(keras.optimizers.Adam(0.01))
    return model


class PrintEpochs(keras.callbacks.Callback):
    """Callback that prints the logs of each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        figures = [f"{key} {logs[key]:.5f}" for key in ("loss", "val_loss", "loss_weight/time")]
        print(f"epoch {epoch + 1}: {', '.join(figures)}", flush=True)


class StepLogger(keras.callbacks.Callback):
    """Callback that passes losses, metrics and loss weights to a function after each step."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_train_batch_end(self, batch, logs=None):
        figures = {key: float(value) for key, value in logs.items()}
        for task, weight in self.model.get_layer("heads").loss_weights().items():
            figures[f"loss_weight/{task}"] = weight
        self.function({"step": int(self.model.optimizer.iterations), **figures})


def train(folder, args, *callbacks):
    """Train or continue.

    Returns:
        The model, the logs of all epochs, the EarlyStopping, and the FitHedge.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.rows, args.batch_size)
    settings = {"backend": keras.backend.backend(), "batch_size": args.batch_size}
    settings["data"] = rows.fingerprint()
    changes = {"monitor": "val_loss", "min_delta": 0.1}
    slower = keras.callbacks.ReduceLROnPlateau(**changes, patience=1)
    stop = keras.callbacks.EarlyStopping(**changes, patience=2)
    hedge = pk.FitHedge(rows.validation)
    logging = [pk.GateWeightsLogger(folder / "gates.csv"), pk.LossWeightDecay({"click": 0.9})]
    callbacks = [hedge, *logging, slower, stop, *callbacks]
    backup = StepBackup(folder, rows.steps, args.every, settings, callbacks)
    model = make_model()
    fit(model, rows.batch, rows.validation, backup, args.epochs)
    return model, backup.history, stop, hedge


# The comparison


def train_with_kills(folder, args, kills, last):
    """Train in processes that are killed at given steps, then in this one.

    Args:
        folder: The folder of the checkpoints.
        args: The arguments of the script.
        kills: The steps.
        last: The name of the checkpoint after the last of these steps. The kill waits for it.

    Returns:
        The results of `train`, and the figures of all steps.
    """
    names = ("rows", "batch_size", "epochs", "every")
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    command = [sys.executable, __file__, "--folder", folder, "--print-steps", *options]
    steps = []
    for kill in kills:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                steps.append(json.loads(line))
                if steps[-1]["step"] >= kill:
                    is_last = kill == kills[-1]
                    while is_last and process.poll() is None and not (folder / last).exists():
                        time.sleep(0.0005)
                    process.kill()
        if process.returncode > 0:  # it has printed its error
            sys.exit(process.returncode)
    return *train(folder, args, StepLogger(steps.append)), steps


def difference(one, other):
    """Return the largest difference between lists of dicts with the same keys."""
    pairs = zip(one, other, strict=True)
    return np.max([abs(a[key] - b[key]) for a, b in pairs for key in a.keys() | b.keys()])


def compare(folder, args):
    """Compare a killed training run with an uninterrupted one."""
    folders = [folder / "uninterrupted", folder / "killed"]
    expected = []
    model, history, stop, hedge = train(folders[0], args, StepLogger(expected.append))
    print(f"uninterrupted: {len(expected)} steps, {len(history)} of {args.epochs} epochs")
    print(f"best epoch: {stop.best_epoch + 1}, stopped after epoch {stop.stopped_epoch + 1}")
    kills = [*sorted(random.sample(range(1, len(expected)), args.kills - 1)), len(expected)]
    last = checkpoints(folders[0])[-1].name
    *killed, steps = train_with_kills(folders[1], args, kills, last)
    other, history_of_killed, other_stop, other_hedge = killed
    done = {of_step["step"] for of_step in steps}
    again = f"{len(steps) - len(done)} of them computed again"
    print(f"killed after the steps {', '.join(map(str, kills))}: {len(done)} steps, {again}")
    weights = zip(model.get_weights(), other.get_weights(), strict=True)
    csv, csv_of_killed = ((each / "gates.csv").read_bytes() for each in folders)
    print("\nlargest differences")
    figures = difference(steps, [expected[of_step["step"] - 1] for of_step in steps])
    print("  losses, metrics and loss weights after each step:", figures)
    print("  logs by epoch:", difference(history_of_killed, history))
    epochs = [(each.best_epoch, each.stopped_epoch) for each in (stop, other_stop)]
    print("  best epoch, epoch of the stop:", float(np.abs(np.subtract(*epochs)).max()))
    kept = [
        np.concatenate([np.ravel(w) for unit in sorted(each.kept) for w in each.kept[unit].weights])
        for each in (hedge, other_hedge)
    ]
    print("  kept branches:", np.abs(np.subtract(*kept)).max())
    print("  weights:", max(np.abs(one - two).max() for one, two in weights))
    print("  gates.csv:", "equal" if csv == csv_of_killed else "not equal")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("resume"), help="resume by default")
    parser.add_argument("--rows", type=int, default=8192, help="8192 by default")
    parser.add_argument("--batch-size", type=int, default=64, help="64 by default")
    parser.add_argument("--epochs", type=int, default=10, help="10 by default")
    parser.add_argument("--every", type=int, default=50, help="steps between saves; 50")
    parser.add_argument("--kills", type=int, default=0, help="compare with an uninterrupted run")
    parser.add_argument("--print-steps", action="store_true", help="print JSON for each step")
    args = parser.parse_args()
    if args.kills:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), args)
    elif args.print_steps:
        train(args.folder, args, StepLogger(lambda f: print(json.dumps(f), flush=True)))
    else:
        _, history, *_ = train(args.folder, args, PrintEpochs())
        print(f"{args.folder} has a training run of {len(history)} epochs.")


if __name__ == "__main__":
    main()
