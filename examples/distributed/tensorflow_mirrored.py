"""PLE on several devices with TensorFlow and `tf.distribute.MirroredStrategy`.

    pip install -e ".[tensorflow]"
    python examples/distributed/tensorflow_mirrored.py --replicas 2

Trains a PLE on one device and on several replicas, each with all weights and its share of each
batch, and prints the losses side by side. Where there are no GPUs the CPU poses as so many devices;
that shows how it is done and is no faster.

What holds among replicas, as the second part shows with labels that are missing:

    exact         losses without missing labels; with them, by reduction="sum_over_batch_size";
                  metrics; gate statistics; moved and learned loss weights
    per replica   the mean over labelled examples, a head's default: of each replica's own, then
                  averaged

On a machine with several GPUs, `MirroredStrategy()` takes them all; leave steps_per_execution and
jit_compile as they are, which fail under it. Several machines are beyond Keras 3 on TensorFlow:
`fit` fails under MultiWorkerMirroredStrategy, whatever the model (keras-team/keras #20585). JAX and
PyTorch do that, see the scripts beside this one.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1]))  # the examples

import keras
import numpy as np
from _arguments import at_least

import ple_keras as pk

ROWS, FEATURES, BATCH = 2048, 16, 128


def make_data(share_labelled: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features and labels of two tasks, of which one lacks some, in no even order."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    click = (x[:, 0] > x[:, 1] * x[:, 2]).astype("float32")
    time = np.abs(x[:, :2]).sum(axis=1)
    time[rng.random(ROWS) >= share_labelled] = np.nan
    return x, {"click": click, "time": time}


def train(reduction: str | None, share_labelled: float, epochs: int) -> dict[str, list[float]]:
    """The logs of a training run; the model is made and compiled in the scope in force."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", reduction=reduction),
            pk.RegressionHead("time", reduction=reduction),
        ],
        loss_weighting="uncertainty",
    )
    ple = pk.PLEBlock(2, heads, [32, 16], enable_gate_weights_metrics=True, name="ple")
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, heads(ple(inputs)))
    model.compile(**heads.compile_kwargs(optimizer=keras.optimizers.Adam(0.005)))
    x, y = make_data(share_labelled)
    callbacks = [pk.GateWeightsLogger(), pk.LossWeightDecay(0.9)]
    history = model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )
    return history.history


def pose_as_devices(count: int) -> list[str]:
    """GPUs where there are enough; else the CPU as so many devices."""
    import tensorflow as tf

    if len(tf.config.list_physical_devices("GPU")) >= count:
        return [f"GPU:{index}" for index in range(count)]
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    tf.config.set_logical_device_configuration(cpu, parts)
    return [f"CPU:{index}" for index in range(count)]


def compare(title: str, strategy: Any, *setting: Any) -> None:
    """Print the losses, a gate and a loss weight, of one device and of the replicas."""
    alone = train(*setting)
    with strategy.scope():
        together = train(*setting)
    print(f"\n{title}\n{'':28}one device   {strategy.num_replicas_in_sync} replicas")
    for key in ("loss", "time_rmse", "gate/ple/0/click/max", "loss_weight/time"):
        for epoch, values in enumerate(zip(alone[key], together[key]), start=1):
            print(f"{key:>20} {epoch:3}   " + "   ".join(f"{value:10.6f}" for value in values))
    print(flush=True)


def main(argv: list[str] | None = None) -> int:
    """Train on one device and on several; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=at_least(2), default=2, help="default 2")
    parser.add_argument("--epochs", type=at_least(1), default=2, help="default 2")
    args = parser.parse_args(argv)
    if keras.backend.backend() != "tensorflow":
        print("MirroredStrategy is TensorFlow's: KERAS_BACKEND=tensorflow.", file=sys.stderr)
        return 2
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(pose_as_devices(args.replicas))
    compare("all labels", strategy, None, 1.0, args.epochs)
    compare("half of the labels of time, mean over the labelled", strategy, None, 0.5, args.epochs)
    over_batch = "half of the labels of time, sum_over_batch_size"
    compare(over_batch, strategy, "sum_over_batch_size", 0.5, args.epochs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
