"""Training on one, two and four devices: `python -m tests.backends.distribution_run_jax FOLDER`.

Needs XLA_FLAGS=--xla_force_host_platform_device_count=4. Writes FOLDER/figures.json and the models
of the distributed runs.
"""

import sys
from pathlib import Path

from keras import distribution

import ple_keras as pk
from ple_keras.optimizers import sparse_adagrad
from tests.backends.distribution_run import (
    Subclassed,
    data,
    fit_with_callbacks,
    predictions,
    tracked_ple,
    write,
)
from tests.optimizers import tables

DEVICES = distribution.list_devices()


def expert_parallel(*shape):
    """Return a ModelParallel of (replicas, shards), with the stacks split by expert."""
    count = shape[0] * shape[1]
    layouts = distribution.LayoutMap(
        distribution.DeviceMesh(shape, ("batch", "model"), DEVICES[:count])
    )
    layouts[r".*/experts/kernel_\d+"] = ("model", None, None)
    layouts[r".*/experts/bias_\d+"] = ("model", None)
    return distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


DISTRIBUTIONS = {
    "one": None,
    "data_2": distribution.DataParallel(devices=DEVICES[:2]),
    "experts_4": expert_parallel(2, 2),
}


def shards(variables):
    """Return the shape of each variable's shards, by path. All shards must have the same shape."""
    held = {v.path: {part.data.shape for part in v.value.addressable_shards} for v in variables}
    return {path: shapes.pop() for path, shapes in held.items()}


def run(folder, observes):
    """Return all figures of a training run under the current distribution."""
    model = tracked_ple(balance=0.1)
    figures = {
        "logs": fit_with_callbacks(model, folder),
        "shards": shards([*model.variables, *model.optimizer.variables]),
    }
    if observes:
        figures["report"] = pk.gate_report(model, data()[0]).to_dict()
    if distribution.distribution():
        figures["predictions"] = predictions(model)
    return figures


def large_stacks():
    """Return the shards of stacks that Keras initializes by shard, as it does for large ones."""
    from keras.src.backend.jax import core

    core.should_shard_at_init = lambda *_: True
    block = pk.MMoEBlock(["a"], [4], num_experts=4, name="large")
    block.build((None, 3))
    return shards(block.weights)


def train_tables(chosen):
    """Return the weights of a model whose tables are updated by rows."""
    sparse_adagrad.ROWS_PER_ID = 0
    distribution.set_distribution(chosen)
    return tables.fit_labeled(tables.build(pk.table_optimizer()))


def main(folder):
    figures = {"tables": [train_tables(DISTRIBUTIONS[name]) for name in ("one", "data_2")]}
    for name, chosen in DISTRIBUTIONS.items():
        distribution.set_distribution(chosen)
        figures[name] = run(Path(folder) / name, observes=name != "data_2")
    model = Subclassed()
    model(data()[0])
    figures["subclassed"] = shards(model.variables)
    figures["large"] = large_stacks()
    write(figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
