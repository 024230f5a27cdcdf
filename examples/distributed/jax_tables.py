"""Train a PLE whose embedding tables are split by rows over processes and devices, with JAX.

    pip install -e ".[jax,orbax]"
    python examples/distributed/jax_tables.py

Takes three minutes on two cores. Two processes with two devices each stand for the machines of a
cluster. Each device holds a quarter of the rows of each table, and of the optimizer's sums. After
each epoch, all processes save their parts with Keras's OrbaxCheckpoint. In the third epoch, a
process is killed. The script ends the other one, starts both again, and they continue from the last
checkpoint. Then one process alone loads it, saves a file for one device, trains a second model
without interruption, and prints the largest differences.

On a cluster, start the script on each machine, with the variables of jax_processes.py in its
environment and a folder that all machines reach. If a machine fails, end the others, and start all
again.

To reuse: `split_tables`, `print_split`, `continue_or_begin`, and `load_on_one_device`. Five rules
apply:

- The rows of a table must be divisible by the number of devices. Ids do not have to use the last.
- Use another axis than the batch: otherwise, every step gathers the whole table.
- A pattern that matches no path splits nothing, without an error: read the output of `print_split`.
- All processes pass the same batches. With a mesh of (machines, devices per machine) each machine
  passes its own rows, and the devices of each machine share the tables.
- `save` and `predict` fail under the distribution, since no process holds all rows.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
# Virtual CPU devices wait in threads. With one thread per core, they can deadlock.
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import keras
import numpy as np
import orbax.checkpoint  # noqa: F401, OrbaxCheckpoint needs it
from _local import free_addresses, print_differences, run_processes
from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel

import ple_keras as pk

PROCESSES, DEVICES = 2, 2  # devices of each process
USERS, ITEMS, ROWS, BATCH, EPOCHS = 40_000, 8_000, 1920, 240, 4


def split_tables():
    """Return a distribution that splits tables by rows over all devices.

    The pattern must match the whole path of a variable. It also matches SparseAdagrad's sums.
    """
    devices = keras.distribution.list_devices()
    layouts = LayoutMap(DeviceMesh((1, len(devices)), ("batch", "rows"), devices))
    layouts[r".*embeddings.*"] = ("rows", None)
    return ModelParallel(layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False)


def print_split(model):
    """Print the number of rows of each table, and the rows on a device of this process."""
    for variable in (*model.trainable_variables, *model.optimizer.variables):
        if "embeddings" in variable.path:
            shard = variable.value.addressable_shards[0].data
            print(f"{variable.path}: {variable.shape[0]} rows, {shard.shape[0]} on a device")


def make_data():
    """Return random ids of users and items, and labels of two tasks. Some labels are missing."""
    rng = np.random.default_rng(0)
    x = {
        "user": rng.integers(0, USERS, ROWS).astype("int32"),
        "item": rng.integers(0, ITEMS, ROWS).astype("int32"),
    }
    click = (x["item"] % 3 == 0).astype("float32")
    return x, {"click": click, "buy": np.where(click == 1, x["user"] % 2, np.nan)}


def make_model():
    """Return a compiled model. It needs no changes for split tables."""
    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in ("user", "item")}
    rows = [
        pk.SparseEmbedding(count, 8, name=f"{name}_table")(inputs[name])
        for name, count in (("user", USERS), ("item", ITEMS))
    ]
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy")])
    ple = pk.PLEBlock(2, heads, [16])
    model = pk.MultiTaskModel(inputs, heads(ple(keras.layers.Concatenate()(rows))))
    model.compile(pk.table_optimizer("adam"))
    model.optimizer.build(model.trainable_variables)
    return model


def continue_or_begin(folder):
    """Return the model of the last complete checkpoint and the next epoch, or a new model and 0."""
    epochs = [int(path.name) for path in Path(folder).glob("*") if path.name.isdigit()]
    if not epochs:
        return make_model(), 0
    return keras.models.load_model(folder), max(epochs) + 1


class Kill(keras.callbacks.Callback):
    """Callback that kills its process in the middle of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == ROWS // BATCH * 5 // 2:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(model, first_epoch, callbacks=()):
    """Train on all rows. Print the loss of each epoch."""
    show = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print(f"epoch {epoch + 1}: {logs['loss']:.6f}", flush=True)
    )
    model.fit(
        *make_data(),
        batch_size=BATCH,
        initial_epoch=first_epoch,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, *([show] if jax.process_index() == 0 else [])],
    )


def run(folder, kill, address=None, processes=None, process=None):
    """Train in this process. Without an address, JAX reads the environment."""
    keras.distribution.initialize(address, processes, process)
    keras.distribution.set_distribution(split_tables())
    model, epoch = continue_or_begin(folder)
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes begin with epoch {epoch + 1}:", flush=True)
        print_split(model)
    save = keras.callbacks.OrbaxCheckpoint(folder, save_on_background=False)
    fit(model, epoch, [save, *([Kill()] if kill and jax.process_index() else [])])


def load_on_one_device(folder):
    """Return the model of the last checkpoint in one process."""
    devices = keras.distribution.list_devices()[:1]
    keras.distribution.set_distribution(DataParallel(devices=devices))
    model = keras.models.load_model(folder)
    keras.distribution.set_distribution(None)
    return model


def compare_with_one_device(folder, file):
    """Save the model of the last checkpoint in a file, and compare it with one device."""
    load_on_one_device(folder).save(file)
    model = keras.models.load_model(file)
    print("One device, without interruption:")
    alone = make_model()
    fit(alone, 0)
    one, other = arrays(model), arrays(alone)
    print_differences({kind: zip(one[kind], other[kind], strict=True) for kind in one})


def arrays(model):
    """Return the weights, the optimizer state, and the predictions of a model."""
    variables = model.optimizer.variables
    return {
        "weights": model.get_weights(),
        "optimizer state": [keras.ops.convert_to_numpy(variable) for variable in variables],
        "predictions": keras.tree.flatten(model.predict(make_data()[0], verbose=0)),
    }


def start(folder, kill):
    """Start processes on this machine's CPU. Return their exit codes (see `run_processes`)."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    (address,) = free_addresses(1)
    return run_processes(run, [(folder, kill, address, PROCESSES, p) for p in range(PROCESSES)])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="jax_tables", help="the checkpoints")
    parser.add_argument("file", nargs="?", default="jax_tables.keras", help="for one device")
    args = parser.parse_args()
    folder = os.path.abspath(args.folder)
    if "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ:  # on a cluster
        run(folder, kill=False)
        return
    begin = time.perf_counter()
    os.environ["JAX_PLATFORMS"] = "cpu"
    Path(folder).mkdir(exist_ok=True)
    if any(Path(folder).iterdir()):
        sys.exit(f"The folder of the checkpoints must be empty. Received: {folder}")
    if -signal.SIGKILL not in start(folder, kill=True):
        sys.exit("A process failed before it was killed, so all were ended.")
    print("A process was killed, so both were ended.", flush=True)
    if any(start(folder, kill=False)):
        sys.exit("A process failed, so all were ended.")
    compare_with_one_device(folder, args.file)
    print(f"Saved {args.file} for one device.")
    print(f"Took {time.perf_counter() - begin:.0f} s.")


if __name__ == "__main__":
    main()
