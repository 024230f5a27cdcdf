"""Train a PLE on several devices with JAX and `keras.distribution`.

    pip install -e ".[jax]"
    python examples/distributed/jax_devices.py --devices 2

Takes half a minute on two cores. Trains one PLE on random data three times, with equal initial
weights and batches:

    one device       without a distribution
    DataParallel     each device holds all weights, and processes its share of each batch
    ModelParallel    each device holds its share of a level's experts, and processes every example

In all three runs, one program processes the whole batch. Losses with missing labels, gate
statistics and learned loss weights are therefore the same as on one device. Without accelerators,
the CPU is split into virtual devices, which demonstrates the API but is not faster.

Three rules apply. Set the distribution before creating the model. The size of every batch, even the
last one, must be divisible by the number of devices that share it. The number of experts of a level
must be divisible by the number of devices that share them.

With several GPUs or TPUs in one machine, no change is needed: `list_devices` returns them. For
several machines, see jax_processes.py, where `save` and `predict` need care.
"""

import argparse
import os
import time

os.environ["KERAS_BACKEND"] = "jax"
# Virtual CPU devices wait in threads. With one thread per core, they can deadlock.
os.environ.setdefault("PJRT_NPROC", "32")

import keras
import numpy as np
from _task import FEATURES, make_share
from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel

import ple_keras as pk

BATCH = 240  # divisible by 2 and by 4
STACK = "ple/cgc_block_0/experts/kernel_0"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, choices=(2, 4), default=2, help="2 by default")
    parser.add_argument("--epochs", type=int, default=3, help="3 by default")
    return parser.parse_args()


def create_cpu_devices(count):
    """Split the CPU into virtual devices. JAX reads the flag when it is first used."""
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def expert_parallel(devices):
    """Return a distribution that splits each level's experts over the devices.

    The number of experts must be divisible by the number of devices. The keys are patterns that
    must match the whole path of a variable. They also match the paths of the optimizer's moments.
    """
    layouts = LayoutMap(DeviceMesh((1, len(devices)), ("batch", "expert"), devices))
    layouts[r".*/experts/kernel_\d+"] = ("expert", None, None)  # (E, D, H)
    layouts[r".*/experts/bias_\d+"] = ("expert", None)  # (E, H)
    return ModelParallel(layout_map=layouts, batch_dim_name="batch")


def train(x, y, epochs):
    """Train a PLE with two levels of four experts each. Return the model and its losses."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", tower=[16]), pk.RegressionHead("time", tower=[16])]
    )
    ple = pk.PLEBlock(2, heads, [64], num_shared_experts=2, name="ple")
    inputs = keras.Input((FEATURES,))
    model = pk.MultiTaskModel(inputs, heads(ple(inputs)))
    model.compile("adam")
    history = model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model, history.history["loss"]


def device_shapes(model):
    """Describe the shape of the first level's stacked kernels on each device."""
    (stack,) = (variable for variable in model.variables if variable.path == STACK)
    shards = [str(shard.data.shape) for shard in stack.value.addressable_shards]
    return f"{stack.shape} is held as {', '.join(shards)}"


def main():
    args = parse()
    create_cpu_devices(args.devices)
    devices = keras.distribution.list_devices()[: args.devices]
    print(f"devices: {', '.join(devices)}", flush=True)
    x, y = make_share(0, 1)
    alone = None
    for name, make_distribution in (
        ("one device", None),
        ("DataParallel", DataParallel),
        ("ModelParallel", expert_parallel),
    ):
        keras.distribution.set_distribution(
            make_distribution and make_distribution(devices=devices)
        )
        start = time.perf_counter()
        model, losses = train(x, y, args.epochs)
        alone = alone or losses
        difference = np.abs(np.subtract(losses, alone)).max()
        print(f"\n{name}: {time.perf_counter() - start:.0f} s")
        print(f"  losses {' '.join(f'{loss:.5f}' for loss in losses)}")
        print(f"  largest difference from one device {difference:.1e}")
        print(f"  {STACK} {device_shapes(model)}", flush=True)


if __name__ == "__main__":
    main()
