"""Two processes that train one model: `python -m tests.backends.processes_run_jax FOLDER`, on JAX.

Each process writes its results to FOLDER/{process}.json.
"""

import json
import sys
from pathlib import Path

import jax
import keras

import ple_keras as pk
from ple_keras.optimizers import sparse_adagrad
from tests.backends.distribution_run import BATCH, data, hedged_model
from tests.optimizers import tables
from tests.processes import free_address, run_forks

PROCESSES = 2


def share(process, processes):
    """Return the rows of a process."""
    x, y = data()
    rows = slice(process, None, processes)
    return x[rows], {task: labels[rows] for task, labels in y.items()}


def fit_hedged(process=0, processes=1, epochs=1, learning_rate=0.01):
    """Return the logs of FitHedge on the rows of all processes, and the weights."""
    model, rows = hedged_model(), share(process, processes)
    model.optimizer.learning_rate = learning_rate
    fit_hedge = pk.FitHedge(rows)
    arguments = {"batch_size": BATCH // processes, "shuffle": False, "verbose": 0}
    history = model.fit(*rows, epochs=epochs, callbacks=[fit_hedge], **arguments).history
    logs = {key: [*map(float, by_epoch)] for key, by_epoch in history.items() if "hedge" in key}
    weights = [keras.ops.convert_to_numpy(w).tolist() for w in model.trainable_variables]
    return {"logs": logs, "weights": weights}


def train_rows(process=0, processes=1):
    """Return the weights of a model whose tables are updated by rows."""
    sparse_adagrad.ROWS_PER_ID = 0
    return tables.fit_labeled(tables.build(pk.table_optimizer()), process, processes)


def run(process, address, folder):
    """Train in one process. The order of the calls is the same in all processes."""
    keras.distribution.initialize(address, PROCESSES, process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    results = {
        "hedged": fit_hedged(process, PROCESSES),
        "kept": fit_hedged(process, PROCESSES, epochs=4, learning_rate=0.1),
        "rows": train_rows(process, PROCESSES),
    }
    (folder / f"{process}.json").write_text(json.dumps(results))
    jax.distributed.shutdown()  # waits for the other process


if __name__ == "__main__":
    run_forks(run, PROCESSES, free_address(), Path(sys.argv[1]))
