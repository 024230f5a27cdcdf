"""Processes that train one model: `python -m tests.backends.ddp_run FOLDER`, on PyTorch.

Runs two processes. Each writes its results to FOLDER/{rank}.json. The first one saves its model
there. With `ranks=1`, the functions return the results of one process.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import features, randomize
from tests.models import chain, compiled
from tests.optimizers import tables
from tests.processes import EXAMPLES, run_forks

TIMEOUT = timedelta(seconds=60)  # for a process that waits for another
ROWS, BATCH, STEPS, EPOCHS = 80, 16, 20, 2
VALIDATION_ROWS = (slice(0, 5), slice(5, 13))  # of each of two processes


def ple_of_rank(rank=0, loss_weighting="uncertainty", reduction=None, optimizer="adam"):
    """Return a model of two tasks and two levels. Initial weights differ between processes."""
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[3]),
            pk.RegressionHead("time", loss_weight=2.0, reduction=reduction),
        ],
        loss_weighting,
    )
    ple = pk.PLEBlock(
        2, heads, [5, 4], num_task_experts=2, enable_gate_weights_metrics=True, name="ple"
    )
    model = chain(ple, heads, width=6)
    randomize(model, seed=rank)
    kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    return compiled(model, kinds[optimizer](0.01))


def data(missing=0):
    """Return data where one task has no label in the first `missing` rows of each batch."""
    x = features(ROWS, 6)
    y = {"click": x[:, :1] > 0, "time": x[:, 1:2] * x[:, 2:3]}
    y["time"][np.arange(ROWS) % BATCH < missing] = np.nan
    return x, y


def part(arrays, rows):
    x, y = arrays
    return x[rows], {task: labels[rows] for task, labels in y.items()}


def batches(arrays, rank=0, ranks=1, steps=STEPS):
    """Yield the consecutive rows of each batch that belong to a process."""
    size = BATCH // ranks
    for step in range(steps):
        begin = step * BATCH % ROWS + rank * size
        yield part(arrays, slice(begin, begin + size))


def train(model, parts):
    """Return the loss of each step."""
    return [float(model.train_on_batch(*one, return_dict=True)["loss"]) for one in parts]


def values(variables):
    return [np.ravel(keras.ops.convert_to_numpy(variable)).tolist() for variable in variables]


def alone(model):
    """Do nothing: replaces the example's `use_ddp` in a single process."""


def train_with_missing_labels(distribute=alone, rank=0, ranks=1):
    """Train with different numbers of labels in the processes."""
    model = ple_of_rank(rank, loss_weighting=None, optimizer="sgd")
    distribute(model)
    losses = train(model, batches(data(missing=6), rank, ranks, steps=1))
    return {"losses": losses, "weights": values(model.trainable_variables)}


def train_divided_by_batch(distribute=alone, rank=0, ranks=1):
    model = ple_of_rank(rank, reduction="sum_over_batch_size")
    distribute(model)
    losses = train(model, batches(data(missing=6), rank, ranks))
    results = {"losses": losses, "weights": values(model.trainable_variables)}
    return {**results, "optimizer": values(model.optimizer.variables)}


def train_tables(distribute=alone, rank=0, ranks=1):
    """Return the weights of a model with embedding tables."""
    model = tables.build(pk.table_optimizer())
    distribute(model)
    return tables.fit_labeled(model, rank, ranks)


class ObserveGates(keras.callbacks.Callback):
    """Callback that runs `task_report` in one process. The others do not wait for it."""

    def on_epoch_end(self, epoch, logs=None):
        pk.task_report(self.model, *data())


def validation_data(rows):
    """Return rows of the data. Those of the second process have no label of time."""
    x, y = part(data(), rows)
    y["time"] = np.where(np.arange(ROWS)[rows, None] < VALIDATION_ROWS[0].stop, y["time"], np.nan)
    return x, y


def fit_part(model, rank=0, ranks=1, valid=None, callbacks=()):
    """Return the logs by epoch."""
    gammas = {"click": 0.5, "time": 1.0}
    decay = pk.LossWeightSchedule(lambda task, epoch: gammas[task] ** epoch)
    rows = np.arange(ROWS).reshape(-1, ranks, BATCH // ranks)[:, rank].ravel()
    history = model.fit(
        *part(data(), rows),
        batch_size=BATCH // ranks,
        epochs=EPOCHS,
        shuffle=False,
        validation_data=valid and validation_data(valid),
        callbacks=[*callbacks, pk.GateWeightsLogger(), decay],
        verbose=0,
    ).history
    return {key: [float(value) for value in by_epoch] for key, by_epoch in history.items()}


def fit_with_callbacks_in_one_process(distribute, rank, ranks, folder, mean_logs):
    model = ple_of_rank(rank)
    distribute(model)
    only_here = [ObserveGates(), keras.callbacks.ModelCheckpoint(folder / "model.keras")]
    callbacks = [mean_logs, *(only_here if rank == 0 else [])]
    logs = fit_part(model, rank, ranks, VALIDATION_ROWS[rank], callbacks)
    predictions = model.predict(data()[0], verbose=0)
    return {"history": logs, "predictions": {task: p.tolist() for task, p in predictions.items()}}


def fit_with_one_validation(distribute, rank, ranks):
    """Fit with validation data in only one process."""
    model = ple_of_rank(rank)
    distribute(model)
    return fit_part(model, rank, ranks, VALIDATION_ROWS[0] if rank == 0 else None)


def hedged_model(rank=0):
    """Return a model with a HedgedBlock. Initial weights differ between processes."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    model = chain(pk.HedgedBlock(heads, [4]), heads, width=6)
    randomize(model, seed=rank)
    return compiled(model, keras.optimizers.SGD(0.01))


def fit_hedged(distribute=alone, rank=0, ranks=1, epochs=1, learning_rate=0.01):
    """Return the weights, and the logs of FitHedge, which reads the rows of each process."""
    model = hedged_model(rank)
    model.optimizer.learning_rate = learning_rate
    distribute(model)
    rows = np.arange(ROWS).reshape(-1, ranks, BATCH // ranks)[:, rank].ravel()
    fit_hedge = pk.FitHedge(part(data(), VALIDATION_ROWS[rank]))
    arguments = {"batch_size": BATCH // ranks, "shuffle": False, "verbose": 0, "epochs": epochs}
    history = model.fit(*part(data(), rows), callbacks=[fit_hedge], **arguments).history
    logs = {key: [*map(float, by_epoch)] for key, by_epoch in history.items() if "hedge" in key}
    return {"weights": values(model.trainable_variables), "logs": logs}


def run(rank, ranks, folder):
    """Run all trainings of one process."""
    sys.path.insert(0, str(EXAMPLES / "distributed"))
    from torch import distributed
    from torch_ddp import MeanLogs, use_ddp

    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", TIMEOUT, ranks, rank)
    process = (use_ddp, rank, ranks)
    results = {
        "missing": train_with_missing_labels(*process),
        "exact": train_divided_by_batch(*process),
        "hedged": fit_hedged(*process),
        "kept": fit_hedged(*process, epochs=8, learning_rate=0.6),
        "tables": train_tables(*process),
        "fit": fit_with_callbacks_in_one_process(*process, folder, MeanLogs()),
        "validated_once": fit_with_one_validation(*process),
    }
    distributed.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    run_forks(run, 2, 2, Path(sys.argv[1]))
