"""A feature network of `Columns`."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_int
from ple_keras._typing import Tensor
from ple_keras.columns.columns import FIRST, MISSING, Columns
from ple_keras.layers.sparse_embedding import SparseEmbedding


def build_network(columns: Columns, width: int | Mapping[str, int], dropout: float) -> Any:
    """Return a network, or a dict of networks keyed by stream, as `Columns.network` does."""
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in columns.ids}
    for name, (_, length) in columns.sequences.items():
        inputs[name] = keras.Input((length,), dtype="int32", name=name)
    inputs |= {name: keras.Input((), name=name) for name in columns.numbers}
    if not isinstance(width, Mapping):
        return _network(columns, inputs, check_int(width, "width", minimum=1), dropout)
    widths = {stream: check_int(each, "width", minimum=1) for stream, each in width.items()}
    return {
        stream: _network(columns, inputs, each, dropout, f"-{stream}")
        for stream, each in widths.items()
    }


def _network(
    columns: Columns, inputs: Mapping[str, Tensor], width: int, dropout: float, suffix: str = ""
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
        features += [ops.nan_to_num(values), ops.cast(ops.isnan(values), "float32")]
    # The name, which files and copies keep, ties a model to its columns.
    features = keras.layers.Concatenate(name=f"columns_{columns.digest}")(features)
    return keras.Model(inputs, features, name=f"features{suffix}")
