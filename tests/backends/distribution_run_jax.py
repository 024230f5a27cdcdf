"""Training on one, two and four devices: `python -m tests.backends.distribution_run_jax FOLDER`.

Needs XLA_FLAGS=--xla_force_host_platform_device_count=4. Writes FOLDER/figures.json and the models
of the distributed runs.
"""

import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import keras
import numpy as np
from keras import distribution

import ple_keras as pk
from ple_keras.optimizers import sparse_adagrad
from tests.backends.distribution_run import fit_with_callbacks, predictions, tracked_ple, write
from tests.optimizers import tables

DEVICES = distribution.list_devices()


STACKS = {r".*/experts/kernel_\d+": ("model", None, None), r".*/experts/bias_\d+": ("model", None)}
TABLES = {".*embeddings.*": ("model", None)}  # and their sums of squares


def model_parallel(*shape, axes):
    """Return a ModelParallel of (replicas, shards), with the axes of the split variables."""
    count = shape[0] * shape[1]
    layouts = distribution.LayoutMap(
        distribution.DeviceMesh(shape, ("batch", "model"), DEVICES[:count])
    )
    layouts.update(axes)
    return distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


DISTRIBUTIONS = {
    "one": None,
    "data_2": distribution.DataParallel(devices=DEVICES[:2]),
    "experts_4": model_parallel(2, 2, axes=STACKS),
}
SPLITS = {"1x4": model_parallel(1, 4, axes=TABLES), "2x2": model_parallel(2, 2, axes=TABLES)}
SPLIT_MODELS = {"plain": ["1x4", "2x2"], "shared": ["2x2"], "hedged": ["1x4"]}


def shards(variables):
    """Return the shape of each variable's shards, by path. All shards must have the same shape."""
    held = {v.path: {part.data.shape for part in v.value.addressable_shards} for v in variables}
    return {path: shapes.pop() for path, shapes in held.items()}


def run(folder):
    """Return all figures of a training run under the current distribution."""
    model = tracked_ple(balance=0.1)
    figures = {
        "logs": fit_with_callbacks(model, folder),
        "shards": shards([*model.variables, *model.optimizer.variables]),
    }
    if distribution.distribution():
        figures["predictions"] = predictions(model)
    return figures


def train_tables(chosen):
    """Return the weights of a model whose tables are updated by rows."""
    sparse_adagrad.ROWS_PER_ID = 0
    distribution.set_distribution(chosen)
    return tables.fit_labeled(tables.build(pk.table_optimizer()))


def split_model(kind):
    """Return a model whose tables have 16 rows, which four devices can share."""
    clipping = {"shared": {"clipnorm": 0.1}, "hedged": {"global_clipnorm": 0.1}}.get(kind, {})
    optimizer = pk.table_optimizer("adam", pk.SparseAdagrad(**clipping))
    make = partial(pk.SparseEmbedding, 16, 3)
    return tables.build(optimizer, make, kind == "shared", kind == "hedged")


def fit_split(model, rows=48, epochs=5):
    """Train a model. Return its weights and the optimizer state."""
    click = tables.labels(rows)["click"]
    y = {"click": click, "buy": 1 - click}
    model.fit(tables.ids(rows), y, batch_size=12, epochs=epochs, shuffle=False, verbose=0)
    return tables.arrays(model)


def difference(one, other):
    return float(max(np.abs(a - b).max() for a, b in zip(one, other, strict=True)))


def collectives(model):
    """Return the arrays that devices exchange in a compiled training step, and their counts."""
    from keras.src.backend.jax.trainer import _distribute_data

    state = model._get_jax_state(*[True] * 4)
    batch = _distribute_data((tables.ids(), tables.labels()))
    step = jax.jit(model.train_step, out_shardings=(None, model._get_state_sharding_spec()))
    found = Counter()
    for line in step.lower(state, batch).compile().as_text().splitlines():
        if exchange := re.search(r"= (.*) (all-\w+|reduce-scatter|collective-permute)\(", line):
            found.update(
                f"{exchange[2]} {shape}" for shape in re.findall(r"\w+\[[\d,]*\]", exchange[1])
            )
    return dict(found)


def split_shards(model):
    """Return the shapes of the shards of tables and of their sums of squares, by path."""
    variables = [*model.trainable_variables, *model.optimizer.variables]
    return shards(variable for variable in variables if "embeddings" in variable.path)


def split_tables(folder):
    """Return figures of models whose tables are split by rows over four devices."""
    figures, file = {}, folder / "tables.keras"
    for kind, meshes in SPLIT_MODELS.items():
        distribution.set_distribution(None)
        model = split_model(kind)
        alone = fit_split(model)
        model.save(file)
        continued = fit_split(model, epochs=1)
        for name in meshes:
            distribution.set_distribution(SPLITS[name])
            loaded = keras.models.load_model(file)
            of_file = split_shards(loaded)
            model = split_model(kind)
            found = {"steps": difference(alone, fit_split(model))}
            found["loaded"] = difference(continued, fit_split(loaded, epochs=1))
            found |= {"shards": split_shards(model), "of_file": of_file}
            found["collectives"] = collectives(model)
            model.save(folder / "split.keras")
            distribution.set_distribution(None)
            whole = keras.models.load_model(folder / "split.keras")
            found["whole"] = difference(continued, fit_split(whole, epochs=1))
            figures[f"{kind} {name}"] = found
    distribution.set_distribution(SPLITS["1x4"])
    try:
        pk.SparseEmbedding(10, 3, name="table").build()
    except ValueError as error:
        figures["rows"] = str(error)
    return figures


def main(folder):
    figures = {"tables": [train_tables(DISTRIBUTIONS[name]) for name in ("one", "data_2")]}
    figures["split"] = split_tables(Path(folder))
    for name, chosen in DISTRIBUTIONS.items():
        distribution.set_distribution(chosen)
        figures[name] = run(Path(folder) / name)
    write(figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
