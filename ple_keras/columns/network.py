"""A network that maps encoded columns to features."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_int, check_keys, check_number
from ple_keras._typing import Tensor
from ple_keras.columns.columns import free_name
from ple_keras.layers.column_layers import ColumnFeatures, ColumnTable
from ple_keras.layers.number_embedding import NumberEmbedding


def build_network(
    columns: Any,
    width: int | Mapping[str, int],
    dropout: float,
    number_units: int | Mapping[str, int | None] | None,
    packed: bool,
) -> keras.Model | dict[str, keras.Model]:
    """Return a network, or a dict of networks keyed by stream (see `Columns.network`).

    Args:
        columns: The fitted Columns, whose file imports this one.
        width: As for `Columns.network`.
        dropout: As for `Columns.network`.
        number_units: As for `Columns.network`.
        packed: As for `Columns.network`.
    """
    dropout = check_number(dropout, "dropout", minimum=0, below=1)
    ids, sequences, numbers = columns.ids, columns.sequences, columns.numbers
    inputs: dict[str, Tensor] = {}
    input_names = columns._input_names(packed)

    def scalars(names: list[str], block: str, dtype: str) -> Tensor:
        """Add the inputs of some columns, and return them side by side."""
        if packed:
            inputs[block] = keras.Input((len(names),), dtype=dtype, name=block)
            return inputs[block]
        names = [input_names[name] for name in names]
        added = {name: keras.Input((), dtype=dtype, name=name) for name in names}
        inputs.update(added)
        return ops.stack([*added.values()], axis=-1)

    codes = [scalars(ids, "ids", "int32")] if ids else []
    for name, (_, length) in sequences.items():
        codes.append(keras.Input((length,), dtype="int32", name=input_names[name]))
        inputs[input_names[name]] = codes[-1]
    values = scalars(numbers, "numbers", "float32") if numbers else None
    # A number with two values gains nothing from an embedding.
    distinct = [len({*columns._scaled_quantiles(name)}) for name in numbers]
    embedded = [i for i, count in enumerate(distinct) if count > 2]
    lengths = [*([len(ids)] if ids else []), *(length for _, length in sequences.values())]
    tables = [*ids, *(table for table, length in sequences.values() for _ in range(length))]

    def network(width: Any, units: Any, suffix: str = "") -> keras.Model:
        width = check_int(width, "width", minimum=1)
        units = None if units is None else check_int(units, "number_units", minimum=1)
        features = []
        if codes:
            each = ops.concatenate(codes, axis=-1)
            name = free_name(f"table{suffix}", {*inputs})  # a column can have the name
            rows = ColumnTable(columns.rows, tables, width, name=name)(each)
            pairs = [(each, rows)]  # all ids, then each sequence
            if ends := np.cumsum(lengths)[:-1].tolist():
                pairs = [*zip(ops.split(each, ends, axis=1), ops.split(rows, ends, axis=1))]
            vectors = [ops.reshape(pairs.pop(0)[1], (-1, len(ids) * width))] if ids else []
            vectors += [_mean_row(*pair) for pair in pairs]
            features.append(keras.layers.Dropout(dropout)(ops.concatenate(vectors, axis=-1)))
        if values is not None:
            low, high = columns._limits()  # a file can't contain the arrays of `clip`
            features.append(ops.minimum(ops.maximum(ops.nan_to_num(values), low), high))
            if units is not None and embedded:
                read = values
                if len(embedded) < len(numbers):  # ONNX files of PyTorch can take only rows
                    read = ops.transpose(ops.take(ops.transpose(values), embedded, axis=0))
                bins = [columns._scaled_quantiles(numbers[i]).tolist() for i in embedded]
                embedding = NumberEmbedding(units, len(bins[0]) - 1, bin_boundaries=bins)
                features.append(embedding(read))
            features.append(ops.cast(ops.isnan(values), "float32"))
        blocks = {"ids": ids, "numbers": numbers} if packed else {}
        features = ColumnFeatures(columns.digest, blocks)(features)
        return keras.Model(inputs, features, name=f"features{suffix}")

    dicts = [each for each in (width, number_units) if each and isinstance(each, Mapping)]
    if not dicts:  # an empty dict is not an integer
        return network(width, number_units)
    streams = [*dicts[0]]
    widths, units = (
        dict(each) if isinstance(each, Mapping) else dict.fromkeys(streams, each)
        for each in (width, number_units)
    )
    check_keys(widths, [*units], "width")
    return {stream: network(widths[stream], units[stream], f"-{stream}") for stream in streams}


def _mean_row(codes: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of the rows of the codes that are not missing."""
    is_given = ops.expand_dims(ops.cast(ops.not_equal(codes, 0), "float32"), -1)
    return ops.sum(rows * is_given, axis=1) / ops.maximum(ops.sum(is_given, axis=1), 1.0)
