"""A check of features before training."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_keys, short_repr
from ple_keras._keras.batches import Batches, first_batches, is_dataset, naming_input
from ple_keras._keras.internals import functional_outputs, run_graph
from ple_keras._keras.layers import find_layers
from ple_keras._keras.tensors import is_number, to_numpy
from ple_keras._typing import Nested
from ple_keras.columns.column_layers import ColumnFeatures, columns_digest
from ple_keras.columns.columns import Columns
from ple_keras.heads.regression_heads import check_adapted
from ple_keras.heads.task_heads import find_heads
from ple_keras.labels.sample_space import format_shape, shapes_match
from ple_keras.layers.hedged_block import HedgedBlock
from ple_keras.layers.stream_features import StreamFeatures

CALLED_ROWS = 1000  # rows of the call of the model, next to rows with an extreme value
MAX_COLUMNS = 1000  # columns of an array whose extreme values are found
MAX_SHOWN = 20  # numbers of a row in a message
Arrays = dict[str, np.ndarray]  # keyed by name, such as "x['city']"
Values = list[tuple[keras.Operation, np.ndarray]]  # operations and the values that they read


def check_inputs(
    model: keras.Model, x: Nested, steps: int | None = None, *, columns: Columns | None = None
) -> None:
    """Check the features before `fit`, and name the input, row and value that is wrong.

    The model is called without training, on the first 1000 rows and the rows with the smallest and
    largest value of each column. Its weights and statistics do not change.

    Keys, shapes and ids are checked for the inputs of a Functional model. Any other model
    is only called, and ids are checked only if its call does.

    Args:
        model: The model, compiled or not. If it is not built, the call builds it.
        x: As for `fit`: arrays, or dicts or lists of arrays. Or batches of `(x, y)`: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader, a Grain dataset or
            another iterable, but not an iterator or a generator.
        steps: The number of batches to read; None for 100. Arrays are read in full.
        columns: The Columns that have encoded `x`. They must have the digest of the model's
            network. A model without a network of `Columns` has no digest, so nothing is compared.

    Raises:
        TypeError: If `x` is neither arrays nor batches, or no dict for a model with named inputs.
            If `columns` is not a Columns.
        ValueError: If the model has a network of other columns. If an input is missing or unknown,
            or its shape is wrong, or the model fails. If ids are not in the table of an
            `Embedding` that reads them. If the predictions of a row are NaN or infinite. If a
            standardized head needs `adapt`. If `x` is an iterator or has no row.

    Example:

    >>> city = keras.Input((), dtype="int32", name="city")
    >>> model = keras.Model(city, keras.layers.Embedding(4, 2)(city))
    >>> check_inputs(model, {"city": np.array([0, 3, 4])})
    Traceback (most recent call last):
    ...
    ValueError: x must have ids from 0 to 3 for the Embedding 'embedding'. \
    Received: x['city'][2]=4
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model. Received: model={short_repr(model)}")
    if columns and not hasattr(columns, "digest"):  # services can have a copy of the class
        raise TypeError(f"columns must be a Columns. Received: columns={short_repr(columns)}")
    if columns and columns_digest(model) not in ("", columns.digest):
        received = f"Received: {columns.digest=}, and {columns_digest(model)!r} in the model"
        raise ValueError(f"columns must have the digest of the model's columns. {received}")
    check_adapted(find_heads(model))
    batches = first_batches(x, steps, "x") if is_dataset(x) else Batches(x, default=None)
    for batch, *_ in batches:
        if len(keras.tree.flatten(batch)[0]):  # an empty batch trains nothing
            _check_batch(model, batch)


@np.errstate(all="ignore")  # NaN and infinity
def _check_batch(model: keras.Layer, x: Nested) -> None:
    """Check the arrays of a batch."""
    read: Values = []
    run, inputs = model, {}
    if functional_outputs(model) is not None:
        run, inputs = _observed(model, read), _inputs_by_path(model, x)
    numbers: Arrays = {}
    packed = {k: c for x in find_layers(model, ColumnFeatures) for k, c in x.packed.items()}
    for path, array in keras.tree.flatten_with_path(x):
        name = "x" + "".join(f"[{key!r}]" for key in path)
        allowed = inputs[path].shape if path in inputs else array.shape
        # Keras only checks ranks, and can broadcast. It adds or removes a last axis of length 1.
        pair = (x[:-1] if x[-1:] == (1,) else x for x in (array.shape[1:], allowed[1:]))
        if not shapes_match(*pair):
            received = f"Received: {name}.shape={array.shape}"
            raise ValueError(f"{name} must be {format_shape(allowed)}. {received}")
        if is_number(str(array.dtype)):
            by_column = zip(packed.get(path[-1] if path else "", []), _flat(array).T)
            arrays = {f"{name}[{column!r}]": values for column, values in by_column}
            numbers |= arrays or {name: array}
    found = [np.arange(min(CALLED_ROWS, len(keras.tree.flatten(x)[0])))]
    for array in numbers.values():
        columns = _flat(array)[:, :MAX_COLUMNS]
        found += [columns.argmin(axis=0), columns.argmax(axis=0)]  # NaN is an extreme value
    rows = np.unique(np.concatenate(found))
    numbers = {name: array[rows] for name, array in numbers.items()}
    some = keras.tree.map_structure(lambda array: array[rows], x)
    try:
        with naming_input(some):
            outputs = _arrays(run(some))
    finally:  # unknown ids are errors on some backends
        _check_ids(read, numbers, rows)
    _check_finite(outputs, numbers, rows)


def _inputs_by_path(model: keras.Layer, x: Nested) -> dict[tuple[str], keras.KerasTensor]:
    """Return the symbolic inputs of a Functional model, keyed by the paths that `x` can have."""
    if isinstance(model.input, Mapping):
        check_keys(x, list(model.input), "x")  # Keras would swap the columns of an array
    return {(x.name,): x for x in model.inputs} | dict(keras.tree.flatten_with_path(model.input))


def _place(name: str, *index: object) -> str:
    return f"{name}[{', '.join(map(str, index))}]"


def _observed(operation: keras.Operation, read: Values) -> Callable[..., Any]:
    """Return a function that calls an operation, and adds the arrays that it reads to a list.

    For a model with a graph, it does so for each operation of the graph.
    """
    is_sequential = isinstance(operation, keras.Sequential)  # `output` can be of a call
    graph = keras.Model(operation.inputs, operation.outputs) if is_sequential else operation
    observe = partial(_observed, read=read)

    def call(*args: Nested, **kwargs: Nested) -> Any:
        if functional_outputs(graph) is not None:
            return run_graph(graph, [*args, *kwargs.values()][0], observe)
        for copy in _networks(operation):
            observe(copy)(*args)
        read.extend((operation, array) for array in _arrays((args, kwargs)))
        return operation(*args, **kwargs)

    return call


def _networks(layer: keras.Operation) -> Sequence[keras.Layer]:
    """Return the copies of the feature network inside a layer, which read what the layer reads."""
    features = layer._features if isinstance(layer, HedgedBlock) else layer
    return features.layers if isinstance(features, StreamFeatures) else []


def _arrays(tensors: Nested) -> list[np.ndarray]:
    """Return tensors of numbers as arrays."""
    arrays = [to_numpy(x) for x in keras.tree.flatten(tensors) if keras.ops.is_tensor(x)]
    return [array for array in arrays if array.ndim and is_number(str(array.dtype))]


def _find_column(numbers: Arrays, values: np.ndarray, row: object) -> str | None:
    """Return the name of a row in the first column with some values, such as "x['tags'][2, 0]"."""
    for name, array in numbers.items():
        if len(array) == len(values):
            for index in np.argwhere((values == array.T.astype(values.dtype)).all(axis=-1).T):
                return _place(name, row, *index)
    return None


def _check_ids(read: Values, numbers: Arrays, rows: np.ndarray) -> None:
    """Check the ids that tables read."""
    for layer, ids in read:
        if isinstance(layer, keras.layers.Embedding):
            sizes = np.broadcast_to(getattr(layer, "sizes", layer.input_dim), ids.shape)
            is_wrong = (ids < 0) | (ids >= sizes) | (ids % 1 != 0)
            for row, *index in np.argwhere(is_wrong)[:1]:
                name = rows[row % len(rows)]  # unused if a reshape has added rows
                place = _find_column(numbers, ids[:, *index], name) or "an id in the model"
                raise ValueError(
                    f"x must have ids from 0 to {sizes[row, *index] - 1} for the Embedding "
                    f"{layer.name!r}. Received: {place}={ids[row, *index]}"
                )


def _check_finite(outputs: list[np.ndarray], numbers: Arrays, rows: np.ndarray) -> None:
    """Check that the predictions of all rows are finite."""
    for values in outputs:
        for row in np.argwhere(~np.isfinite(values))[:1, 0]:
            wrong = [
                f"{_place(name, rows[row], *index)}={array[row, *index]}"
                for name, array in numbers.items()
                for index in np.argwhere(~np.isfinite(array[row]))
            ]
            raise ValueError(
                f"The predictions of x must be finite, but those of row {rows[row]} are not. "
                f"Received: {', '.join(wrong[:MAX_SHOWN]) or 'finite numbers'}"
            )


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)
