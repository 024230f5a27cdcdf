"""The first values of table rows of new values in a trained model."""

from collections.abc import Iterator

import keras

from ple_keras._keras.copying import Template
from ple_keras._keras.layers import find_layers, walk
from ple_keras._keras.slices import read_slice
from ple_keras.columns.column_layers import ColumnFeatures, ColumnTable, columns_digest
from ple_keras.columns.columns import FIRST, UNKNOWN, Columns
from ple_keras.layers.template import StreamTemplates


def fill_new_rows(model: keras.Model, columns: Columns, updated: Columns) -> None:
    """Copy the row of unknown values to the rows of new values in the tables of a trained model.

    All tables of the model are changed, even in the branches of a HedgedBlock and in streams.
    Predictions for known and for new values do not change until the model is trained on rows that
    `updated` has encoded. The state of the optimizer is kept. The model, its files and its clones
    then have the digest of `updated`.

    Args:
        model: The model, compiled or not, changed in place.
        columns: The columns of the model.
        updated: The result of `columns.update`.

    Raises:
        TypeError: If `model` is not a Keras model or layer, or another argument is not a Columns.
        ValueError: If the model does not have a network of `columns`, or its tables have too few
            rows. If `updated` is not from `columns.update`.

    Example:

    >>> import pandas as pd
    >>> columns = Columns(ids=["user"]).fit(pd.DataFrame({"user": [*"aabb"]}), 2, spare_rows=0.5)
    >>> network = columns.network(embedding_dim=4)
    >>> heads = TaskHeads([BinaryHead("click")])
    >>> features = SharedBottomBlock(heads, [8])(network.output)
    >>> model = MultiTaskModel(network.input, heads(features))
    >>> day = pd.DataFrame({"user": [*"bccd"]})
    >>> updated = columns.update(day, min_rows=2)  # adds the user "c"
    >>> before = model.predict_on_batch(columns.transform(day))
    >>> fill_new_rows(model, columns, updated)
    >>> after = model.predict_on_batch(updated.transform(day))
    >>> bool((before["click"] == after["click"]).all())
    True
    """
    arguments = {"model": model, "columns": columns, "updated": updated}
    for argument, value in arguments.items():
        kind = keras.Layer if argument == "model" else Columns
        if not isinstance(value, kind):
            raise TypeError(f"{argument} must be a {kind.__name__}. Received: {argument}={value!r}")
    old, new = columns.digest, updated.digest  # a digest of many values takes seconds
    if updated.previous != old:
        raise ValueError(
            f"updated must be from `columns.update`. Received: {updated.previous=}, not {old!r}"
        )
    if {each.digest for each in _networks(model)} != {old}:
        raise ValueError(
            f"model must have a network of `columns`. Received: columns.digest={old!r}, "
            f"{columns_digest(model)!r} in the model"
        )
    starts = {name: FIRST + len(values) for name, values in columns.known.items()}
    ends = {name: FIRST + len(values) for name, values in updated.known.items()}
    tables = find_layers(model, ColumnTable)
    sizes = [pair for table in tables for pair in table.rows.items()]
    lacking = {name: rows for name, rows in sizes if rows < ends[name]}
    if lacking:
        raise ValueError(
            "model must have a row for each code of `updated`. Build a new model with "
            f"`updated.network`. Received: {ends} codes by table, and a model with {lacking} rows"
        )
    for table in tables:
        for weight in table.weights:
            rows, first = read_slice((weight, ())), 0
            for name, size in table.rows.items():
                rows[first + starts[name] : first + ends[name]] = rows[first + UNKNOWN]
                first += size
            weight.assign(rows)
    set_digest(model, new)


def set_digest(model: keras.Model, digest: str) -> None:
    """Set the digest of the columns of a model."""
    for network in _networks(model):
        network.digest = digest


def _networks(model: keras.Model) -> list[ColumnFeatures]:
    return [each for each in _all_layers(model) if isinstance(each, ColumnFeatures)]


def _all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield a layer, the layers inside it, and the templates that configs contain."""
    for *_, inside in walk(layer):
        yield inside
        for value in vars(inside).values():
            if isinstance(value, Template | StreamTemplates):
                for template in keras.tree.flatten(value.layer):
                    yield from _all_layers(template)
