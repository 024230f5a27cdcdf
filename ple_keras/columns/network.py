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
        numbers: The columns of numbers.
        inputs: The name of the input of each column that has one.
        rows: The number of rows of each table.
        quantiles: The scaled and limited quantiles of each column of numbers.
        digest: The digest of the columns.
        packed: Whether all ids, and all numbers, are one input.
    """

    ids: Sequence[str]
    sequences: Mapping[str, tuple[str, int]]
    numbers: Sequence[str]
    inputs: Mapping[str, str]
    rows: Mapping[str, int]
    quantiles: Mapping[str, Sequence[float]]
    digest: str
    packed: bool


@dataclass(frozen=True)
class _Encoded:
    """The inputs of all streams, the codes of all ids and of each sequence, and the numbers."""

    inputs: dict[str, Tensor]
    codes: list[Tensor]
    numbers: Tensor | None


def build_network(
    spec: NetworkSpec,
    width: int | Mapping[str, int],
    dropout: float,
    number_units: int | Mapping[str, int | None] | None,
) -> keras.Model | dict[str, keras.Model]:
    """Return a network, or a dict of networks keyed by stream (see `Columns.network`).

    Args:
        spec: The columns.
        width: As for `Columns.network`.
        dropout: As for `Columns.network`.
        number_units: As for `Columns.network`.
    """
    dropout = check_number(dropout, "dropout", minimum=0, below=1)
    encoded = _encoded_inputs(spec)
    dicts = [each for each in (width, number_units) if each and isinstance(each, Mapping)]
    if not dicts:  # an empty dict is not an integer
        return _stream_network(spec, encoded, width, dropout, number_units)
    widths, units = _by_stream(width, dicts[0]), _by_stream(number_units, dicts[0])
    check_keys(widths, [*units], "width")
    return {
        stream: _stream_network(spec, encoded, widths[stream], dropout, units[stream], f"-{stream}")
        for stream in dicts[0]
    }


def _by_stream(value: Any, streams: Mapping[str, Any]) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(streams, value)


def _encoded_inputs(spec: NetworkSpec) -> _Encoded:
    """Return the inputs, which all streams have in common."""
    inputs: dict[str, Tensor] = {}
    codes, numbers = [], None
    if spec.ids:
        codes.append(_add_scalars(inputs, spec, spec.ids, "ids", "int32"))
    for column, (_, length) in spec.sequences.items():
        name = spec.inputs[column]
        inputs[name] = keras.Input((length,), dtype="int32", name=name)
        codes.append(inputs[name])
    if spec.numbers:
        numbers = _add_scalars(inputs, spec, spec.numbers, "numbers", "float32")
    return _Encoded(inputs, codes, numbers)


def _add_scalars(
    inputs: dict[str, Tensor], spec: NetworkSpec, columns: Sequence[str], block: str, dtype: str
) -> Tensor:
    """Add the inputs of some columns, and return them side by side."""
    if spec.packed:
        inputs[block] = keras.Input((len(columns),), dtype=dtype, name=block)
        return inputs[block]
    names = [spec.inputs[column] for column in columns]
    inputs |= {name: keras.Input((), dtype=dtype, name=name) for name in names}
    return ops.stack([inputs[name] for name in names], axis=-1)


def _stream_network(
    spec: NetworkSpec, encoded: _Encoded, width: Any, dropout: float, units: Any, suffix: str = ""
) -> keras.Model:
    """Return the network of a stream, whose names end with a suffix."""
    width = check_int(width, "width", minimum=1)
    units = None if units is None else check_int(units, "number_units", minimum=1)
    features = []
    if encoded.codes:
        name = free_name(f"table{suffix}", encoded.inputs.keys())
        rows = _table_features(spec, encoded.codes, width, name)
        features.append(keras.layers.Dropout(dropout)(rows))
    if encoded.numbers is not None:
        features += _number_features(spec, encoded.numbers, units)
    blocks = {"ids": spec.ids, "numbers": spec.numbers} if spec.packed else {}
    output = ColumnFeatures(spec.digest, blocks)(features)
    return keras.Model(encoded.inputs, output, name=f"features{suffix}")


def _table_features(spec: NetworkSpec, codes: list[Tensor], width: int, name: str) -> Tensor:
    """Return the rows of ids, and the mean row of each sequence, from one table."""
    tables = [*spec.ids]
    for table, length in spec.sequences.values():
        tables += [table] * length
    joined = ops.concatenate(codes, axis=-1)
    rows = ColumnTable(spec.rows, tables, width, name=name)(joined)
    parts = [(joined, rows)]
    if len(codes) > 1:
        ends = np.cumsum([each.shape[1] for each in codes])[:-1].tolist()
        parts = [*zip(ops.split(joined, ends, axis=1), ops.split(rows, ends, axis=1))]
    vectors = []
    if spec.ids:
        _, id_rows = parts.pop(0)
        vectors.append(ops.reshape(id_rows, (-1, len(spec.ids) * width)))
    vectors += [_mean_row(*part) for part in parts]
    return ops.concatenate(vectors, axis=-1)


def _mean_row(codes: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of the rows of the codes that are not missing."""
    is_given = ops.expand_dims(ops.cast(ops.not_equal(codes, 0), "float32"), -1)
    return ops.sum(rows * is_given, axis=1) / ops.maximum(ops.sum(is_given, axis=1), 1.0)


def _number_features(spec: NetworkSpec, values: Tensor, units: int | None) -> list[Tensor]:
    """Return the limited numbers, their embedding if it has units, and which are missing."""
    quantiles = np.array([spec.quantiles[name] for name in spec.numbers], "float32")
    low, high = quantiles[:, 0], quantiles[:, -1]
    features = [ops.minimum(ops.maximum(ops.nan_to_num(values), low), high)]  # no `clip` in files
    # A number with two values gains nothing from an embedding.
    embedded = [i for i, name in enumerate(spec.numbers) if len({*spec.quantiles[name]}) > 2]
    if units is not None and embedded:
        bins = [spec.quantiles[spec.numbers[i]] for i in embedded]
        read = values
        if len(embedded) < len(spec.numbers):  # ONNX files of PyTorch can take only rows
            read = ops.transpose(ops.take(ops.transpose(values), embedded, axis=0))
        features.append(NumberEmbedding(units, len(bins[0]) - 1, bin_boundaries=bins)(read))
    return [*features, ops.cast(ops.isnan(values), "float32")]
