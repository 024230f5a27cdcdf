"""A network that maps encoded columns to features."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_int
from ple_keras._typing import Tensor
from ple_keras.layers.column_features import ColumnFeatures
from ple_keras.layers.number_embedding import NumberEmbedding
from ple_keras.layers.sparse_embedding import SparseEmbedding


def build_network(
    columns: Any,
    width: int | Mapping[str, int],
    dropout: float,
    number_units: int | None,
    edges: list[list[float]] | None,
    limit: float,
) -> keras.Model | dict[str, keras.Model]:
    """Return a network, or a dict of networks keyed by stream (see `Columns.network`).

    Args:
        columns: The fitted Columns, whose file imports this one.
        width: As for `Columns.network`.
        dropout: As for `Columns.network`.
        number_units: As for `Columns.network`.
        edges: The edges of the bins of each column of numbers; None without `number_units`.
        limit: The largest scaled number, without `number_units`.
    """
    ids, sequences, numbers = columns.ids, columns.sequences, columns.numbers
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in ids}
    for name, (_, length) in sequences.items():
        inputs[name] = keras.Input((length,), dtype="int32", name=name)
    inputs |= {name: keras.Input((), name=name) for name in numbers}

    def network(width: int, suffix: str = "") -> keras.Model:
        tables = {
            name: SparseEmbedding(columns._rows(name), width, name=f"{name}_table{suffix}")
            for name in columns.known
        }
        vectors = [tables[name](inputs[name]) for name in ids]
        vectors += [_mean_row(inputs[name], tables[t]) for name, (t, _) in sequences.items()]
        features = []
        if vectors:
            features.append(keras.layers.Dropout(dropout)(ops.concatenate(vectors, axis=-1)))
        if numbers:
            values = ops.stack([inputs[name] for name in numbers], axis=-1)
            limited = ops.clip(ops.nan_to_num(values), -limit, limit)
            if edges is not None:
                limited = NumberEmbedding(number_units, len(edges[0]) - 1, edges=edges)(values)
            features += [limited, ops.cast(ops.isnan(values), "float32")]
        features = ColumnFeatures(columns.digest)(features)
        return keras.Model(inputs, features, name=f"features{suffix}")

    if not isinstance(width, Mapping):
        return network(check_int(width, "width", minimum=1))
    widths = {stream: check_int(each, "width", minimum=1) for stream, each in width.items()}
    return {stream: network(each, f"-{stream}") for stream, each in widths.items()}


def _mean_row(codes: Tensor, table: SparseEmbedding) -> Tensor:
    """Return the mean of the rows of the codes that are not missing."""
    is_given = ops.expand_dims(ops.cast(ops.not_equal(codes, 0), "float32"), -1)
    total = ops.sum(table(codes) * is_given, axis=1)
    return total / ops.maximum(ops.sum(is_given, axis=1), 1.0)
