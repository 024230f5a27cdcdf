"""Train a PLE on several devices with TensorFlow and `tf.distribute.MirroredStrategy`.

    pip install -e ".[tensorflow]"
    python examples/distributed/tensorflow_mirrored.py --replicas 2

Takes two minutes on two cores. Trains a PLE on one device and on several replicas, and prints the
losses side by side. Each replica has all weights and its share of each batch. Without GPUs, the CPU
is split into virtual devices, which demonstrates the API but is not faster.

The second part uses missing labels. Compared with one device, the following values are

    exact         losses if no label is missing, or with reduction="sum_over_batch_size";
                  metrics; gate statistics; scheduled and learned loss weights
    per replica   a head's default loss, the mean over labeled examples: computed for each replica,
                  then averaged

With several GPUs in one machine, `MirroredStrategy()` uses all of them. Do not change
steps_per_execution or jit_compile: other values fail. For several machines, see
tensorflow_workers.py.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf
from _task import decay, make_model, make_share

import ple_keras as pk


def train(reduction, missing, epochs):
    """Return the logs of a training run in the current scope."""
    model = make_model(reduction)
    callbacks = [pk.GateWeightsLogger(), pk.LossWeightSchedule(decay)]
    kwargs = {"epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": callbacks}
    return model.fit(*make_share(0, 1, missing), batch_size=128, **kwargs).history


def select_devices(count):
    """Return GPUs if there are enough, and virtual CPU devices otherwise."""
    if len(tf.config.list_physical_devices("GPU")) >= count:
        return [f"GPU:{index}" for index in range(count)]
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    tf.config.set_logical_device_configuration(cpu, devices)
    return [f"CPU:{index}" for index in range(count)]


def compare(title, strategy, *setting):
    """Print losses, a gate and a loss weight, on one device and on the replicas."""
    one_device = train(*setting)
    with strategy.scope():
        replicas = train(*setting)
    print(f"\n{title}\n{'':21}epoch  one device   {strategy.num_replicas_in_sync} replicas")
    for key in ("loss", "time_rmse", "gate/ple/0/click/max", "loss_weight/time"):
        for epoch, values in enumerate(zip(one_device[key], replicas[key]), start=1):
            figures = "   ".join(f"{value:10.6f}" for value in values)
            print(f"{key:>20} {epoch:5}  {figures}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=int, choices=range(2, 9), default=2, help="2 by default")
    parser.add_argument("--epochs", type=int, default=2, help="2 by default")
    args = parser.parse_args()

    strategy = tf.distribute.MirroredStrategy(select_devices(args.replicas))
    compare("all labels", strategy, None, 0.0, args.epochs)
    half = "half of the labels of time"
    compare(f"{half}, mean over labeled examples", strategy, None, 0.5, args.epochs)
    compare(f"{half}, sum_over_batch_size", strategy, "sum_over_batch_size", 0.5, args.epochs)


if __name__ == "__main__":
    main()
