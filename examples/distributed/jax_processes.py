"""Train a PLE in several processes with JAX and `keras.distribution`.

    pip install -e ".[jax]"
    python examples/distributed/jax_processes.py --processes 2

Takes one minute on two cores. Each process stands for a machine of a cluster and has its own share
of the rows. The processes train a PLE with missing labels, gate statistics and learned loss
weights, save it, load it and continue. Then the first process trains alone on all rows, and
prints the largest differences.

On a cluster, start the script on each machine, with three variables in its environment, and replace
`make_share` of _task.py with a function that reads the machine's own rows:

    KERAS_DISTRIBUTION_JOB_ADDRESSES    host and port of the first machine, such as 10.0.0.1:29500
    KERAS_DISTRIBUTION_NUM_PROCESSES    the number of machines
    KERAS_DISTRIBUTION_PROCESS_ID       0 on the first machine, 1 on the second, and so on

To reuse: `without_distribution` and `save_once`. Under the distribution, calls that create or
assign variables wait for all processes: creating, training, loading and even saving a model. So
make these calls in all processes in the same order. Four rules follow:

- Shares must have equal sizes, and the batch size is per process. Otherwise, processes wait
  forever, or their weights differ without an error.
- Callbacks run in all processes. Only a path can differ: pass it only in the first process.
- `save` in one process waits forever. Call it in every process, or without the distribution.
- `predict` fails. Without the distribution, each process predicts its own rows.

`gate_weights`, `gate_report` and `task_report` do not wait for other processes. They cover the rows
of their own process.
"""

import argparse
import os
import sys
import time
from contextlib import contextmanager

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from _local import free_addresses, pair_logs, print_differences, run_processes
from _task import decay, make_model, make_share
from jax.experimental import multihost_utils

import ple_keras as pk

BATCH = 240
SAVED, EPOCHS = 2, 3  # saves after 2 of 3 epochs


def fit(model, share, processes, first_epoch, last_epoch):
    """Train on a share of the rows. Return the logs by epoch, which cover all rows."""
    history = model.fit(
        *share,
        batch_size=BATCH // processes,
        initial_epoch=first_epoch,
        epochs=last_epoch,
        shuffle=False,
        verbose=0,
        callbacks=[pk.GateWeightsLogger(), pk.LossWeightSchedule(decay)],
    ).history
    return {key: [float(value) for value in values] for key, values in history.items()}


@contextmanager
def without_distribution():
    """Use the model as in a single process, without waiting for other processes."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def save_once(model, file):
    """Save the model in the first process. The others wait until the file is complete."""
    if jax.process_index() == 0:
        with without_distribution():
            model.save(file)
    multihost_utils.sync_global_devices(f"saved {file}")


def train_together(file, share, processes):
    """Train in all processes, save, load and continue. Return the model and its logs."""
    model = make_model()
    logs = fit(model, share, processes, 0, SAVED)
    save_once(model, file)
    model = keras.models.load_model(file)
    more = fit(model, share, processes, SAVED, EPOCHS)
    return model, {key: values + more[key] for key, values in logs.items()}


def observe(model, x):
    """Return the predictions and the gate weights of rows, as a list of arrays."""
    with without_distribution():
        predictions = model.predict(x, verbose=0)
    gates = pk.gate_weights(model, x)
    return keras.tree.flatten([dict(sorted(predictions.items())), gates])


def gather(arrays):
    """Return the rows of all processes, in the order of the data."""
    by_process = multihost_utils.process_allgather(arrays)
    return [np.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:]) for array in by_process]


def compare_with_one_process(processes, logs, scores, observed):
    """Train in this process alone, without a break. Print the largest differences."""
    x, y = make_share(0, 1)
    with without_distribution():
        model = make_model()
        alone = fit(model, (x, y), 1, 0, EPOCHS)
        alone_scores = model.evaluate(x, y, BATCH, verbose=0, return_dict=True)
    print(f"losses of {processes} processes: {' '.join(f'{loss:.6f}' for loss in logs['loss'])}")
    print(f"losses of one process:  {' '.join(f'{loss:.6f}' for loss in alone['loss'])}")
    pairs = pair_logs(logs, alone)
    pairs["evaluate"] = [(scores[key], alone_scores[key]) for key in alone_scores]
    pairs["predictions, gates"] = zip(observed, observe(model, x))
    print_differences(pairs)


def run(file, address=None, processes=None, process=None):
    """Train in this process. Without an address, JAX reads the environment."""
    start = time.perf_counter()
    keras.distribution.initialize(address, processes, process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    processes, process = jax.process_count(), jax.process_index()

    share = make_share(process, processes)
    model, logs = train_together(file, share, processes)
    scores = model.evaluate(*share, BATCH // processes, verbose=0, return_dict=True)
    observed = gather(observe(model, share[0]))
    if process == 0:
        compare_with_one_process(processes, logs, scores, observed)
        print(f"Process 0 saved {file} after epoch {SAVED}. All processes loaded it.")
        print(f"Took {time.perf_counter() - start:.0f} s.", flush=True)


def start(file, processes):
    """Start processes on this machine's CPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    (address,) = free_addresses(1)
    if any(run_processes(run, [(file, address, processes, each) for each in range(processes)])):
        sys.exit("A process failed, so all were ended.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, choices=(2, 3, 4), default=2, help="2 by default")
    parser.add_argument("file", nargs="?", default="jax_processes.keras", help="the saved file")
    args = parser.parse_args()
    if "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ:  # on a cluster
        run(args.file)
    else:
        start(args.file, args.processes)
