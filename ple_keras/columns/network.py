"""A feature network of `Columns`."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_int
from ple_keras._typing import Tensor
from ple_keras.columns.columns import BINS, FIRST, LARGEST, MISSING, Columns
from ple_keras.layers.number_embedding import NumberEmbedding
from ple_keras.layers.sparse_embedding import SparseEmbedding


def build_network(
    columns: Columns, width: int | Mapping[str, int], dropout: float, number_units: int | None
) -> keras.Model | dict[str, keras.Model]:
    """Return a network, or a dict of networks keyed by stream, as `Columns.network` does."""
    lacking = [name for name in columns.numbers if name not in columns.quantiles]
    if number_units is not None and lacking:
        raise ValueError(
            f"number_units must be None without quantiles of {lacking}, as in files of earlier "
            f"versions: fit the columns again. Received: {number_units=}"
        )
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in columns.ids}
    for name, (_, length) in columns.sequences.items():
        inputs[name] = keras.Input((length,), dtype="int32", name=name)
    inputs |= {name: keras.Input((), name=name) for name in columns.numbers}
    if not isinstance(width, Mapping):
        width = check_int(width, "width", minimum=1)
        return _network(columns, inputs, width, dropout, number_units)
    widths = {stream: check_int(each, "width", minimum=1) for stream, each in width.items()}
    return {
        stream: _network(columns, inputs, each, dropout, number_units, f"-{stream}")
        for stream, each in widths.items()
    }


def _network(
    columns: Columns,
    inputs: Mapping[str, Tensor],
    width: int,
    dropout: float,
    number_units: int | None,
    suffix: str = "",
) -> keras.Model:
    """Return a network with tables of its own, whose names end with `suffix`."""
    tables = {
        name: SparseEmbedding(FIRST + len(values), width, name=f"{name}_table{suffix}")
        for name, values in columns.known.items()
    }
    features, vectors = [], [tables[name](inputs[name]) for name in columns.ids]
    for name, (table, _) in columns.sequences.items():
        is_given = ops.expand_dims(ops.cast(ops.not_equal(inputs[name], MISSING), "float32"), -1)
        total = ops.sum(tables[table](inputs[name]) * is_given, axis=1)
        vectors.append(total / ops.maximum(ops.sum(is_given, axis=1), 1.0))
    if vectors:
        features.append(keras.layers.Dropout(dropout)(ops.concatenate(vectors, axis=-1)))
    if columns.numbers:
        values = ops.stack([inputs[name] for name in columns.numbers], axis=-1)
        numbers = ops.clip(ops.nan_to_num(values), -LARGEST, LARGEST)
        if number_units is not None:
            scales = [columns.scales[name][:2] for name in columns.numbers]
            quantiles = [np.array(columns.quantiles[name]) for name in columns.numbers]
            edges = [
                ((x - mean) / deviation).tolist() for x, (mean, deviation) in zip(quantiles, scales)
            ]
            numbers = NumberEmbedding(number_units, BINS, edges=edges)(values)
        features += [numbers, ops.cast(ops.isnan(values), "float32")]
    # The name, which files and copies keep, ties a model to its columns.
    features = keras.layers.Concatenate(name=f"columns_{columns.digest}")(features)
    return keras.Model(inputs, features, name=f"features{suffix}")
