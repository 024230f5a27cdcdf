"""Train so that a killed process continues at the step where it was.

    pip install -e ".[jax]"   # or ".[torch]", or ".[tensorflow]"
    KERAS_BACKEND=jax python examples/resume.py             # kill it, and run it again
    KERAS_BACKEND=jax python examples/resume.py --kills 10  # compare with an uninterrupted run

Takes half a minute on two cores, and three minutes with `--kills 10`. After every 50 steps, and
after each epoch, the script saves the training into a folder. If it runs again, it continues from
there: each step trains on the batch, with the dropout, that it would have had without the
interruption. The logs by epoch and the CSV file of gate weights are the same too.

`--kills 10` trains once without interruption, and once in processes that are killed (SIGKILL): half
of them when they begin to write a checkpoint, the others at random steps. It prints the largest
differences.

BackupAndRestore does this only at the end of epochs. The model's file has the weights, the
optimizer's state, the loss weights and the seeds of blocks. `StepBackup` saves these, and also

- the number of the next batch,
- the sums of metrics and of gate weights in the current epoch,
- the seeds of other layers, such as keras.layers.Dropout,
- the logs of past epochs.

To reuse: `Batches`, `StepBackup` with the functions below it, and `fit`.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import keras
    import numpy as np

    import ple_keras as pk

    if keras.backend.backend() == "torch":
        import torch
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{backend}]"')

FEATURES, SEED = 16, 0


# The data


class Rows:
    """Examples that are drawn at random, in batches by number."""

    def __init__(self, count, batch_size):
        self.x = np.random.default_rng(SEED).normal(size=(count, FEATURES)).astype("float32")
        click = (self.x[:, :1] > self.x[:, 1:2] * self.x[:, 2:3]).astype("float32")
        time = np.where(click, np.abs(self.x[:, :2]).sum(axis=1, keepdims=True), np.nan)
        self.y = {"click": click, "time": time.astype("float32")}  # a time only after a click
        self.batch_size = batch_size
        self.steps = count // batch_size  # in an epoch

    def batch(self, number):
        """Return a batch. Its rows depend on the number alone, and an epoch has each row once."""
        epoch, place = divmod(number, self.steps)
        order = np.random.default_rng([SEED, epoch]).permutation(len(self.x))
        rows = order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.x[rows], {task: labels[rows] for task, labels in self.y.items()}

    def fingerprint(self):
        """Return a text that other data do not have. For files, use `digest` of each."""
        content = b"".join(array.tobytes() for array in [self.x, *self.y.values()])
        return hashlib.sha256(content).hexdigest()


class Batches(keras.utils.PyDataset):
    """Endless batches for `fit`, from a number on.

    Keras reads ahead, and reads the first batches more than once. Batches by number do not change.

    Args:
        batch: A function that returns the batch of a number.
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
    """Callback that saves the training into a folder, and continues from there.

    Pass it last, since it also saves what other callbacks change and log. A checkpoint that is not
    as it was written is not used: the training continues from the one before, or from its start.

    Args:
        folder: The folder of the checkpoints. It keeps the last two.
        steps: The number of steps in an epoch.
        every: The number of steps after which it saves. It also saves at the end of each epoch.
        settings: What must be equal to continue, as a dict for JSON.

    Attributes:
        epoch, step: The next step of the training, both from 0.
        history: The logs of each epoch so far, also of earlier processes.
    """

    def __init__(self, folder, steps, every, settings):
        super().__init__()
        self.folder, self.steps, self.every, self.settings = folder, steps, every, settings
        self.epoch, self.step, self.history = 0, 0, []
        self._found = newest_intact(folder)
        if self._found:
            state = json.loads((self._found / "state.json").read_text())
            if state["settings"] != settings:
                sys.exit(f"{folder} has a training with other settings: {state['settings']}")
            self.epoch, self.step, self.history = (state[k] for k in ("epoch", "step", "history"))

    @property
    def number(self):
        """The number of the next step, and of its batch, in the whole training."""
        return self.epoch * self.steps + self.step

    def on_train_begin(self, logs=None):
        if self._found:
            self._restore()

    def on_epoch_begin(self, epoch, logs=None):
        if self._found and self.step:  # `fit` has reset the metrics, and a callback the gates
            self._restore()
        self._found = None

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
        self._save()

    def _save(self):
        checkpoint = self.folder / f"epoch-{self.epoch:05}-step-{self.step:07}"
        unfinished = checkpoint.with_suffix(".unfinished")
        unfinished.mkdir()
        self.model.save_weights(unfinished / "model.weights.h5")
        rest = (keras.ops.convert_to_numpy(variable) for variable in self._rest())
        np.savez(unfinished / "rest.npz", *rest)
        state = {"epoch": self.epoch, "step": self.step, "history": self.history}
        (unfinished / "state.json").write_text(json.dumps({**state, "settings": self.settings}))
        finish(unfinished, checkpoint)
        for old in checkpoints(self.folder)[:-2]:
            shutil.rmtree(old)

    def _restore(self):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(self._found / "model.weights.h5")
        with np.load(self._found / "rest.npz") as rest:
            for variable, value in zip(self._rest(), rest.values(), strict=True):
                variable.assign(value)

    def _rest(self):
        """Return the variables that files lack: seeds and sums, with some that files have."""
        return [*self.model.non_trainable_variables, *self.model.metrics_variables]


def finish(unfinished, checkpoint):
    """Write the digests of a checkpoint's files, and rename it when all is on the disk.

    The folder with the final name is complete, even after a failure of power.
    """
    (unfinished / "digests.json").write_text(json.dumps(digests(unfinished)))
    for path in [*unfinished.iterdir(), unfinished]:
        flush(path)
    unfinished.rename(checkpoint)
    flush(checkpoint.parent)


def flush(path):
    """Wait until a file, or the list of files of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digests(checkpoint):
    """Return the digest of each file of a checkpoint, by name."""
    names = {path.name for path in checkpoint.iterdir()} - {"digests.json"}
    return {name: digest(checkpoint / name) for name in sorted(names)}


def digest(path):
    """Return the SHA-256 of a file. A file with another byte has another one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoints(folder):
    return sorted(folder.glob("epoch-*[0-9]"))


def newest_intact(folder):
    """Return the newest checkpoint that is as it was written, or None.

    Newer ones get the suffix ".damaged", so that their names are free. Unfinished ones are removed.
    """
    for unfinished in folder.glob("epoch-*.unfinished"):
        shutil.rmtree(unfinished)
    for checkpoint in reversed(checkpoints(folder)):
        try:
            if json.loads((checkpoint / "digests.json").read_text()) == digests(checkpoint):
                return checkpoint
        except (OSError, ValueError):  # no file, no JSON, or it can't be read
            pass
        print(f"{checkpoint} is damaged: the one before is used.", file=sys.stderr)
        damaged = checkpoint.with_suffix(".damaged")
        shutil.rmtree(damaged, ignore_errors=True)  # of an earlier failure at this step
        checkpoint.rename(damaged)
    return None


def fit(model, batch, backup, epochs, callbacks):
    """Train from the step where the last process was."""
    kwargs = {"callbacks": [*callbacks, backup], "shuffle": False, "verbose": 0}
    if backup.step:  # the rest of an epoch
        epoch, rest = backup.epoch, backup.steps - backup.step
        batches = Batches(batch, backup.number)
        model.fit(batches, initial_epoch=epoch, epochs=epoch + 1, steps_per_epoch=rest, **kwargs)
        if model.stop_training:  # by EarlyStopping, for example
            return
    batches = Batches(batch, backup.number)
    kwargs |= {"initial_epoch": backup.epoch, "steps_per_epoch": backup.steps}
    model.fit(batches, epochs=epochs, **kwargs)


# The training


def make_model():
    """Return a compiled model with every kind of state: dropout, and moved and learned weights."""
    keras.utils.set_random_seed(SEED)
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", tower=[16]), pk.RegressionHead("time", tower=[16])],
        loss_weighting="uncertainty",
        name="heads",
    )
    expert = pk.ExpertBlock([32, 16], dropout=0.1)
    ple = pk.PLEBlock(
        2, heads, expert, gate_kwargs={"dropout": 0.1}, enable_gate_weights_metrics=True, name="ple"
    )
    inputs = keras.Input((FEATURES,))
    model = pk.MultiTaskModel(inputs, heads(ple(keras.layers.Dropout(0.1)(inputs))))
    model.compile("adam")
    return model


class PrintEpochs(keras.callbacks.Callback):
    """Callback that prints the logs of each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        figures = [f"{key} {logs[key]:.5f}" for key in ("loss", "click_auc", "loss_weight/time")]
        print(f"epoch {epoch + 1}: {', '.join(figures)}", flush=True)


class HandOverSteps(keras.callbacks.Callback):
    """Callback that hands a function the figures after each step: losses and loss weights."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_train_batch_end(self, batch, logs=None):
        figures = {key: float(value) for key, value in logs.items()}
        for task, weight in self.model.get_layer("heads").loss_weights().items():
            figures[f"loss_weight/{task}"] = weight
        self.function({"step": int(self.model.optimizer.iterations), **figures})


def train(folder, args, *callbacks):
    """Train, or continue. Return the model and the logs of all epochs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        sys.exit(f"{folder} is not a folder. Delete it, or choose another --folder.")
    rows = Rows(args.rows, args.batch_size)
    settings = {"backend": keras.backend.backend(), "batch_size": args.batch_size}
    settings["data"] = rows.fingerprint()
    backup = StepBackup(folder, rows.steps, args.every, settings)
    model = make_model()
    logging = [pk.GateWeightsLogger(folder / "gates.csv"), pk.LossWeightDecay({"click": 0.9})]
    fit(model, rows.batch, backup, args.epochs, [*logging, *callbacks])
    return model, backup.history


# The comparison


def train_with_kills(folder, args, kills):
    """Train in processes that are killed at steps, then in this one.

    Args:
        folder: The folder of the checkpoints.
        args: The arguments of the script.
        kills: The steps. If a checkpoint follows a step, the kill waits until its write begins.

    Returns:
        The model, the logs of all epochs, the figures of all steps, and the number of kills during
        a write.
    """
    names = ("rows", "batch_size", "epochs", "every")
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    command = [sys.executable, __file__, "--folder", folder, "--print-steps", *options]
    steps, during_write = [], 0

    def writing():
        return any(folder.glob("epoch-*.unfinished"))

    for kill in kills:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                steps.append(json.loads(line))
                if steps[-1]["step"] >= kill:
                    while is_saved(kill, args) and process.poll() is None and not writing():
                        time.sleep(0.0005)
                    process.kill()
        if process.returncode > 0:  # it has printed its error
            sys.exit(process.returncode)
        during_write += writing()
    return *train(folder, args, HandOverSteps(steps.append)), steps, during_write


def is_saved(step, args):
    """Return whether a checkpoint follows a step within an epoch."""
    step_in_epoch = step % (args.rows // args.batch_size)
    return step_in_epoch > 0 and step_in_epoch % args.every == 0


def choose_kills(args):
    """Return the steps of kills. A checkpoint follows half of them, if there are as many."""
    numbers = range(1, args.epochs * (args.rows // args.batch_size) + 1)
    saved = [number for number in numbers if is_saved(number, args)]
    others = [number for number in numbers if number not in saved]
    count = min(args.kills // 2, len(saved))
    return sorted(random.sample(saved, count) + random.sample(others, args.kills - count))


def difference(one, other):
    """Return the largest difference between lists of dicts with the same keys."""
    pairs = zip(one, other, strict=True)
    return np.max([abs(a[key] - b[key]) for a, b in pairs for key in a.keys() | b.keys()])


def compare(folder, args):
    """Compare a training that is killed with one that is not."""
    kills = choose_kills(args)
    folders = [folder / "uninterrupted", folder / "killed"]
    expected = []
    model, history = train(folders[0], args, HandOverSteps(expected.append))
    other, history_of_killed, steps, during_write = train_with_kills(folders[1], args, kills)
    print(f"uninterrupted: {len(expected)} steps")
    done = {of_step["step"] for of_step in steps}
    again = f"{len(steps) - len(done)} of them computed again"
    print(f"killed after the steps {', '.join(map(str, kills))}: {len(done)} steps, {again}")
    print(f"kills during the write of a checkpoint: {during_write}")
    weights = zip(model.get_weights(), other.get_weights(), strict=True)
    csv, csv_of_killed = ((each / "gates.csv").read_bytes() for each in folders)
    print("\nlargest differences")
    figures = difference(steps, [expected[of_step["step"] - 1] for of_step in steps])
    print("  losses, metrics and loss weights after each step:", figures)
    print("  logs by epoch:", difference(history_of_killed, history))
    print("  weights:", max(np.abs(one - two).max() for one, two in weights))
    print("  gates.csv:", "equal" if csv == csv_of_killed else "not equal")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("resume"), help="resume by default")
    parser.add_argument("--rows", type=int, default=8192, help="8192 by default")
    parser.add_argument("--batch-size", type=int, default=64, help="64 by default")
    parser.add_argument("--epochs", type=int, default=6, help="6 by default")
    parser.add_argument(
        "--every", type=int, default=50, help="save after so many steps, 50 by default"
    )
    parser.add_argument("--kills", type=int, default=0, help="compare with a run without kills")
    parser.add_argument("--print-steps", action="store_true", help="print JSON for each step")
    args = parser.parse_args()
    if min(args.batch_size, args.epochs, args.every) < 1 or args.rows < args.batch_size:
        parser.error(
            "--batch-size, --epochs and --every must be at least 1, --rows a batch or more"
        )
    if args.kills:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), args)
    elif args.print_steps:
        train(args.folder, args, HandOverSteps(lambda f: print(json.dumps(f), flush=True)))
    else:
        train(args.folder, args, PrintEpochs())
        print(f"{args.folder} has the training of {args.epochs} epochs.")


if __name__ == "__main__":
    main()
