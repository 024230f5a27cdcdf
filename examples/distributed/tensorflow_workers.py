"""Train a PLE in several processes with TensorFlow's `MultiWorkerMirroredStrategy`.

    pip install -e ".[tensorflow]"
    python examples/distributed/tensorflow_workers.py --workers 2

Takes one minute on two cores. Each process stands for a machine of a cluster and has its own share
of the rows. The workers train a PLE with missing labels, gate statistics and learned loss weights,
save it, load it and continue. Then the first worker trains alone on all rows with `fit`, and
prints the largest differences.

Under this strategy, `fit` and `evaluate` fail for every model (keras-team/keras #20585). The
function `train` replaces `fit`: it runs the compiled model's `train_step`, and callbacks.
The values of several workers relate to one process as follows:

- Metrics, gate statistics, and scheduled and learned loss weights cover all rows.
- A head's default loss is the mean over the labeled examples of each worker, averaged over the
  workers. With reduction="sum_over_batch_size", as here, it equals the loss of one process.

On a cluster, start the script on each machine with the environment variable TF_CONFIG, and replace
`make_share` of _task.py with a function that reads the machine's own rows. On the first of two
machines:

    TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
                "task": {"type": "worker", "index": 0}}'

Rules: Shares must have equal sizes. Create, train and load the model in all workers, in the scope
of the strategy. Save it in one worker. Load it outside the scope to evaluate or predict: within the
scope, `predict` returns the rows of all workers. `gate_weights`, `gate_report` and
`task_report` refuse the scope, and cover the rows of their own worker.
"""

import argparse
import json
import os
import sys
import time

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from _local import free_addresses, pair_logs, print_differences, run_processes
from _task import decay, make_model, make_share

import ple_keras as pk

BATCH = 240
SAVED, EPOCHS = 2, 3  # saves after 2 of 3 epochs


def callbacks():
    return [pk.GateWeightsLogger(), pk.LossWeightSchedule(decay), keras.callbacks.History()]


def train(model, strategy, share, workers, first_epoch, last_epoch):
    """Train like `fit`, in all workers. Return the logs by epoch, which cover all rows."""
    data = tf.data.Dataset.from_tensor_slices(share).batch(BATCH // workers)
    batches = strategy.distribute_datasets_from_function(lambda context: data)

    @tf.function
    def train_step(batch):
        strategy.run(model.train_step, args=(batch,))

    called = callbacks()
    calls = keras.callbacks.CallbackList(called, model=model)
    calls.on_train_begin()
    for epoch in range(first_epoch, last_epoch):
        model.reset_metrics()
        calls.on_epoch_begin(epoch)
        for batch in batches:
            train_step(batch)
        logs = {key: float(value) for key, value in model.get_metrics_result().items()}
        calls.on_epoch_end(epoch, logs)
    calls.on_train_end()
    return called[-1].history


def save_once(model, strategy, worker, file):
    """Save the model in the first worker. The others wait until the file is complete."""
    if worker == 0:
        model.save(file)
    wait_for_all(strategy)


def wait_for_all(strategy):
    """Wait until all workers have called this function."""

    @tf.function
    def add_one_of_each():
        return strategy.reduce("sum", strategy.run(lambda: tf.constant(1)), axis=None)

    int(add_one_of_each())


def run(file, config=None):
    """Train in this process. Without a config, TensorFlow reads TF_CONFIG."""
    start = time.perf_counter()
    if config:
        os.environ["TF_CONFIG"] = json.dumps(config)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    cluster = strategy.cluster_resolver
    worker, workers = cluster.task_id, cluster.cluster_spec().num_tasks("worker")
    share = make_share(worker, workers)

    with strategy.scope():
        model = make_model("sum_over_batch_size")
    logs = train(model, strategy, share, workers, 0, SAVED)
    save_once(model, strategy, worker, file)
    with strategy.scope():
        model = keras.models.load_model(file)
    more = train(model, strategy, share, workers, SAVED, EPOCHS)
    save_once(model, strategy, worker, file)
    if worker == 0:
        compare_with_one_process(workers, {key: logs[key] + more[key] for key in logs}, file)
        print(f"Worker 0 saved {file} after epoch {SAVED}. All workers loaded it.")
        print(f"Took {time.perf_counter() - start:.0f} s.", flush=True)
    wait_for_all(strategy)  # the first worker must not end before the others


def compare_with_one_process(workers, logs, file):
    """Train in this process alone, without a break. Print the largest differences."""
    x, y = make_share(0, 1)
    model, loaded = make_model("sum_over_batch_size"), keras.models.load_model(file)
    kwargs = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    alone = model.fit(x, y, callbacks=callbacks(), **kwargs).history
    print(f"losses of {workers} workers:    {' '.join(f'{loss:.6f}' for loss in logs['loss'])}")
    print(f"losses of one process:  {' '.join(f'{loss:.6f}' for loss in alone['loss'])}")
    pairs = pair_logs(logs, alone)
    pairs["evaluate"] = [[each.evaluate(x, y, BATCH, verbose=0) for each in (loaded, model)]]
    pairs["predictions, gates"] = zip(observe(loaded, x), observe(model, x))
    print_differences(pairs)


def observe(model, x):
    """Return the predictions and the gate weights of rows, as a list of arrays."""
    predictions = model.predict(x, verbose=0)
    return keras.tree.flatten([dict(sorted(predictions.items())), pk.gate_weights(model, x)])


def start(file, workers):
    """Start workers on this machine's CPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    cluster = {"worker": free_addresses(workers)}
    tasks = [{"type": "worker", "index": worker} for worker in range(workers)]
    if any(run_processes(run, [(file, {"cluster": cluster, "task": task}) for task in tasks])):
        sys.exit("A process failed, so all were ended.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, choices=(2, 3, 4), default=2, help="2 by default")
    parser.add_argument("file", nargs="?", default="tensorflow_workers.keras", help="saved file")
    args = parser.parse_args()
    if "TF_CONFIG" in os.environ:  # on a cluster
        run(args.file)
    else:
        start(args.file, args.workers)
