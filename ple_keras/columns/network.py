"""A network that maps encoded columns to features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_int, check_keys, check_number
from ple_keras._typing import Tensor
from ple_keras.columns.column_layers import ColumnFeatures, ColumnTable
from ple_keras.columns.columns import free_name
from ple_keras.layers.number_embedding import NumberEmbedding


@dataclass(frozen=True)
class NetworkSpec:
    """The columns that a network reads.

    Attributes:
        ids: The columns of ids.
        sequences: `{column: (table, length)}` of lists and texts.
        quantiles: The scaled and limited quantiles of each column of numbers.
        inputs: The name of the input of each column that has one.
        rows: The number of rows of each table.
        digest: The digest of the columns.
        packed: Whether all ids, and all numbers, are one input.
    """

    ids: Sequence[str]
    sequences: Mapping[str, tuple[str, int]]
    quantiles: Mapping[str, Sequence[float]]
    inputs: Mapping[str, str]
    rows: Mapping[str, int]
    digest: str
    packed: bool


def build_network(
    spec: NetworkSpec,
    embedding_dim: int | Mapping[str, int],
    dropout: float,
    number_embedding_dim: int | Mapping[str, int | None] | None,
) -> keras.Model | dict[str, keras.Model]:
    """Return a network, or a dict of networks keyed by stream (see `Columns.network`).

    Args:
        spec: The columns.
        embedding_dim: As for `Columns.network`.
        dropout: As for `Columns.network`.
        number_embedding_dim: As for `Columns.network`.
    """
    networks = _Networks(spec, check_number(dropout, "dropout", minimum=0, below=1))
    sizes = (embedding_dim, number_embedding_dim)
    dicts = [each for each in sizes if each and isinstance(each, Mapping)]
    if not dicts:  # an empty dict is not an integer
        return networks.build(embedding_dim, number_embedding_dim)
    streams = [*dicts[0]]
    tables, numbers = (
        each if isinstance(each, Mapping) else dict.fromkeys(streams, each) for each in sizes
    )
    check_keys(tables, [*numbers], "embedding_dim")
    return {each: networks.build(tables[each], numbers[each], f"-{each}") for each in streams}


class _Networks:
    """Networks with common inputs.

    Args:
        spec: The columns.
        dropout: The dropout rate of the rows of tables.
    """

    def __init__(self, spec: NetworkSpec, dropout: float) -> None:
        self._spec, self._dropout = spec, dropout
        self._read_inputs: dict[str, Tensor] = {}
        self._codes, self._numbers = [], None
        if spec.ids:
            self._codes.append(self._add_scalars(spec.ids, "ids", "int32"))
        for column, (_, length) in spec.sequences.items():
            name = spec.inputs[column]
            self._read_inputs[name] = keras.Input((length,), dtype="int32", name=name)
            self._codes.append(self._read_inputs[name])
        if spec.quantiles:
            self._numbers = self._add_scalars([*spec.quantiles], "numbers", "float32")

    def _add_scalars(self, columns: Sequence[str], block: str, dtype: str) -> Tensor:
        """Add the inputs of some columns, and return them side by side."""
        if self._spec.packed:
            self._read_inputs[block] = keras.Input((len(columns),), dtype=dtype, name=block)
            return self._read_inputs[block]
        names = [self._spec.inputs[column] for column in columns]
        self._read_inputs |= {name: keras.Input((), dtype=dtype, name=name) for name in names}
        return ops.stack([self._read_inputs[name] for name in names], axis=-1)

    def build(self, embedding_dim: Any, units: Any, suffix: str = "") -> keras.Model:
        """Return a network whose names end with a suffix."""
        dim = check_int(embedding_dim, "embedding_dim", minimum=1)
        units = None if units is None else check_int(units, "number_embedding_dim", minimum=1)
        spec, features = self._spec, []
        if self._codes:
            rows = self._table_features(dim, f"table{suffix}")
            features.append(keras.layers.Dropout(self._dropout)(rows))
        if self._numbers is not None:
            features += self._number_features(self._numbers, units)
        blocks = {"ids": spec.ids, "numbers": [*spec.quantiles]} if spec.packed else {}
        output = ColumnFeatures(spec.digest, blocks)(features)
        return keras.Model(self._read_inputs, output, name=f"features{suffix}")

    def _table_features(self, dim: int, name: str) -> Tensor:
        """Return the rows of ids, and the mean row of each sequence, from one table."""
        ids, tables = self._spec.ids, [*self._spec.ids]
        for table, length in self._spec.sequences.values():
            tables += [table] * length
        name = free_name(name, self._read_inputs.keys())
        codes = ops.concatenate(self._codes, axis=-1)
        rows = ColumnTable(self._spec.rows, tables, dim, name=name)(codes)
        parts = [(codes, rows)]
        ends = np.cumsum([each.shape[1] for each in self._codes])[:-1].tolist()
        if ends:
            parts = [*zip(ops.split(codes, ends, axis=1), ops.split(rows, ends, axis=1))]
        vectors = [ops.reshape(parts.pop(0)[1], (-1, len(ids) * dim))] if ids else []
        vectors += [_mean_row(*part) for part in parts]
        return ops.concatenate(vectors, axis=-1)

    def _number_features(self, values: Tensor, units: int | None) -> list[Tensor]:
        """Return limited numbers, their embedding if it has units, and whether each is missing."""
        quantiles = [*self._spec.quantiles.values()]
        low, high = np.array([(each[0], each[-1]) for each in quantiles], "float32").T
        # A file can't contain the arrays of `clip`.
        features = [ops.minimum(ops.maximum(ops.nan_to_num(values), low), high)]
        # A number with two values gains nothing from an embedding.
        embedded = [i for i, each in enumerate(quantiles) if len({*each}) > 2]
        if units is not None and embedded:
            read, bins = values, [quantiles[i] for i in embedded]
            if len(embedded) < len(quantiles):  # ONNX files of PyTorch can take only rows
                read = ops.transpose(ops.take(ops.transpose(values), embedded, axis=0))
            features.append(NumberEmbedding(units, len(bins[0]) - 1, bin_boundaries=bins)(read))
        return [*features, ops.cast(ops.isnan(values), "float32")]


def _mean_row(codes: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of the rows of the codes that are not missing."""
    is_given = ops.expand_dims(ops.cast(ops.not_equal(codes, 0), "float32"), -1)
    return ops.sum(rows * is_given, axis=1) / ops.maximum(ops.sum(is_given, axis=1), 1.0)
