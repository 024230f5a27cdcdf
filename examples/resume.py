"""Train so that a killed process continues at the step where it was.

    pip install -e ".[jax,ecosystem]"   # or ".[torch]"
    KERAS_BACKEND=jax python examples/resume.py            # kill it, and run it again
    KERAS_BACKEND=jax python examples/resume.py --kills 5  # compare with an uninterrupted run

Takes half a minute on two cores, and three minutes with `--kills 5`. The data come from Grain on
JAX, and from a DataLoader on PyTorch. After every 50 steps, and after each epoch, the script saves
the training into a folder. If it runs again, it continues from there: each step trains on the
batch, with the dropout, that it would have had without the interruption. The logs by epoch and the
CSV file of gate weights are the same too.

`--kills 5` trains once without interruption, and once in processes that are killed (SIGKILL) at
random steps. It prints the largest differences.

BackupAndRestore does this only at the end of epochs. The model's file has the weights, the
optimizer's state, the loss weights and the seeds of blocks. `StepBackup` saves these, and also

- the position in the data,
- the sums of metrics and of gate weights in the current epoch,
- the seeds of other layers, such as keras.layers.Dropout,
- the logs of past epochs.

To reuse: `Stream`, the pipeline of your backend, `StepBackup`, and `fit`.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import keras
    import numpy as np

    import ple_keras as pk

    if keras.backend.backend() == "jax":
        import grain
    if keras.backend.backend() == "torch":
        import torch
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    extras = "torch" if backend == "torch" else f"{backend},ecosystem"  # the latter for Grain
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{extras}]"')

FEATURES, SEED = 16, 0


# The data


class Rows:
    """Examples as `(x, y)` by number, drawn at random."""

    def __init__(self, count):
        self.x = np.random.default_rng(SEED).normal(size=(count, FEATURES)).astype("float32")
        click = (self.x[:, :1] > self.x[:, 1:2] * self.x[:, 2:3]).astype("float32")
        time = np.where(click, np.abs(self.x[:, :2]).sum(axis=1, keepdims=True), np.nan)
        self.y = {"click": click, "time": time.astype("float32")}  # a time only after a click

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row], {task: labels[row] for task, labels in self.y.items()}


def grain_pipeline(rows, batch_size, position):
    """Yield endless batches, each with the position after it: the state of the iterator."""
    dataset = grain.MapDataset.source(rows).seed(SEED).shuffle().repeat().batch(batch_size)
    batches = iter(dataset.to_iter_dataset())
    if position is not None:
        batches.set_state(position)
    for batch in batches:
        yield batch, batches.get_state()


def data_loader_pipeline(rows, batch_size, position):
    """Yield endless batches, each with the position after it: the number of batches so far."""
    first = position or 0
    numbers = numbers_of_rows(len(rows), batch_size, first)
    return zip(torch.utils.data.DataLoader(rows, batch_sampler=numbers), itertools.count(first + 1))


def numbers_of_rows(count, batch_size, first):
    """Yield the rows of each batch. They depend on the number of the batch alone."""
    for step in itertools.count(first):
        epoch, place = divmod(step, count // batch_size)
        if place == 0 or step == first:
            order = np.random.default_rng([SEED, epoch]).permutation(count)
        yield order[place * batch_size : (place + 1) * batch_size].tolist()


PIPELINES = {"jax": grain_pipeline, "torch": data_loader_pipeline}


class Stream(keras.utils.PyDataset):
    """Endless batches for `fit`, from a position on.

    Keras starts the batches more than once, since it looks at the first one before it trains. It
    also reads ahead. `position` is therefore the position after the last batch that was trained on.

    Args:
        pipeline: A function of a position, or None for the beginning. It yields batches, each with
            the position after it, which must be JSON.
    """

    def __init__(self, pipeline):
        super().__init__()
        self.pipeline, self.position = pipeline, None

    @property
    def num_batches(self):
        return None  # endless

    def __getitem__(self, index):
        if index == 0:
            self._batches, self._ahead = self.pipeline(self.position), collections.deque()
        batch, position = next(self._batches)
        self._ahead.append(position)
        return batch

    def advance(self):
        """Move the position behind the next batch."""
        self.position = self._ahead.popleft()


# Saving and restoring


class StepBackup(keras.callbacks.Callback):
    """Callback that saves the training into a folder, and continues from there.

    Pass it last, since it also saves what other callbacks change and log. A checkpoint is written
    under another name and then renamed, so that there is never half of one.

    Args:
        folder: The folder of the checkpoints. It keeps the last two.
        stream: The `Stream` that `fit` gets.
        steps: The number of steps in an epoch.
        every: The number of steps after which it saves. It also saves at the end of each epoch.
        settings: What must be equal to continue, as a dict for JSON.

    Attributes:
        epoch, step: The next step of the training, both from 0.
        history: The logs of each epoch so far, also of earlier processes.
    """

    def __init__(self, folder, stream, steps, every, settings):
        super().__init__()
        self.folder, self.stream, self.settings = folder, stream, settings
        self.steps, self.every = steps, every
        self.epoch, self.step, self.history = 0, 0, []
        for unfinished in folder.glob("epoch-*.unfinished"):
            shutil.rmtree(unfinished)
        self._found = max(self._checkpoints(), default=None)
        if self._found:
            with note_on_errors(self._found):
                state = json.loads((self._found / "state.json").read_text())
            if state["settings"] != settings:
                sys.exit(f"{folder} has a training with other settings: {state['settings']}")
            self.epoch, self.step, self.history = (state[k] for k in ("epoch", "step", "history"))
            stream.position = state["position"]

    def _checkpoints(self):
        return sorted(self.folder.glob("epoch-*[0-9]"))

    def on_train_begin(self, logs=None):
        if self._found:
            self._restore()

    def on_epoch_begin(self, epoch, logs=None):
        if self._found and self.step:  # `fit` has reset the metrics, and a callback the gates
            self._restore()
        self._found = None

    def on_train_batch_begin(self, batch, logs=None):
        if keras.backend.backend() == "torch":  # dropout without a seed draws from its generator
            torch.manual_seed(self.epoch * self.steps + self.step)

    def on_train_batch_end(self, batch, logs=None):
        self.stream.advance()
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
        state |= {"position": self.stream.position, "settings": self.settings}
        (unfinished / "state.json").write_text(json.dumps(state))
        unfinished.rename(checkpoint)
        for old in self._checkpoints()[:-2]:
            shutil.rmtree(old)

    def _restore(self):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        with note_on_errors(self._found), np.load(self._found / "rest.npz") as rest:
            self.model.load_weights(self._found / "model.weights.h5")
            for variable, value in zip(self._rest(), rest.values(), strict=True):
                variable.assign(value)

    def _rest(self):
        """Return the variables that files lack: seeds and sums, with some that files have."""
        return [*self.model.non_trainable_variables, *self.model.metrics_variables]


@contextlib.contextmanager
def note_on_errors(checkpoint):
    """Say what to do if a checkpoint is of another model, or was damaged by a power failure."""
    try:
        yield
    except Exception as error:
        error.add_note(f"Without {checkpoint}, training continues from the checkpoint before.")
        raise


def fit(model, stream, backup, epochs, callbacks):
    """Train from the step where the last process was."""
    kwargs = {"callbacks": [*callbacks, backup], "shuffle": False, "verbose": 0}
    if backup.step:  # the rest of an epoch
        epoch, steps = backup.epoch, backup.steps - backup.step
        kwargs["initial_epoch"] = epoch
        model.fit(stream, epochs=epoch + 1, steps_per_epoch=steps, **kwargs)
        if model.stop_training:  # by EarlyStopping, for example
            return
    kwargs["initial_epoch"] = backup.epoch
    model.fit(stream, epochs=epochs, steps_per_epoch=backup.steps, **kwargs)


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
        2, heads, expert, gate_dropout=0.1, enable_gate_weights_metrics=True, name="ple"
    )
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, heads(ple(keras.layers.Dropout(0.1)(inputs))))
    model.compile("adam", **heads.compile_kwargs())
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
    rows, pipeline = Rows(args.rows), PIPELINES[keras.backend.backend()]
    stream = Stream(lambda position: pipeline(rows, args.batch_size, position))
    settings = {"backend": keras.backend.backend()}
    settings |= {"rows": args.rows, "batch_size": args.batch_size}
    steps = args.rows // args.batch_size
    backup = StepBackup(folder, stream, steps, args.every, settings)
    model = make_model()
    logging = [pk.GateWeightsLogger(folder / "gates.csv"), pk.LossWeightDecay({"click": 0.9})]
    fit(model, stream, backup, args.epochs, [*logging, *callbacks])
    return model, backup.history


# The comparison


def train_with_kills(folder, args, kills):
    """Train in processes that are killed at steps, then in this one. Return all steps' figures too.

    A process may get further before the kill takes effect, also into writing a checkpoint.
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
                    process.kill()
        if process.returncode > 0:  # it has printed its error
            sys.exit(process.returncode)
    return *train(folder, args, HandOverSteps(steps.append)), steps


def difference(one, other):
    """Return the largest difference between lists of dicts with the same keys."""
    pairs = zip(one, other, strict=True)
    return np.max([abs(a[key] - b[key]) for a, b in pairs for key in a.keys() | b.keys()])


def compare(folder, args):
    """Compare a training that is killed with one that is not."""
    count = args.epochs * (args.rows // args.batch_size)
    kills = sorted(np.random.default_rng().choice(count, args.kills, replace=False) + 1)
    folders = [folder / "uninterrupted", folder / "killed"]
    expected = []
    model, history = train(folders[0], args, HandOverSteps(expected.append))
    other, history_of_killed, steps = train_with_kills(folders[1], args, kills)
    print(f"uninterrupted: {len(expected)} steps")
    done = {of_step["step"] for of_step in steps}
    again = f"{len(steps) - len(done)} of them computed again"
    print(f"killed after the steps {', '.join(map(str, kills))}: {len(done)} steps, {again}")
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
    if keras.backend.backend() not in PIPELINES:
        sys.exit(f"KERAS_BACKEND must be jax or torch. Received: {keras.backend.backend()}")
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
