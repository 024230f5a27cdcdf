"""Check of features before training."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Number
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_keys, short_repr, warn_user
from ple_keras._keras.batches import (
    Batches,
    first_batches,
    is_dataset,
    naming_batches,
    refuse_steps,
)
from ple_keras._keras.internals import functional_outputs
from ple_keras._keras.tensors import is_number, to_numpy
from ple_keras._keras.walking import walk
from ple_keras._typing import Nested, Tensor
from ple_keras.inspection._observed_model import empty_data_error, failed_batch_error
from ple_keras.labels.alignment import format_shape, shapes_match
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.expert_block import ExpertBlock

TensorFunction = Callable[..., Tensor]
LARGE = 100  # mean or standard deviation of a column of numbers
MAX_ROWS = 1024  # of one call of the model; more rows are represented by some of them
FIRST_ROWS = 32  # of these
SCALE_ROWS = 100_000  # for means and deviations
MAX_COLUMNS = 1000  # for which the rows with the smallest and largest value are found
MAX_LARGE = 20  # columns of an array that are looked for in the inputs of layers


def check_inputs(model: keras.Model, x: Nested, steps: int | None = None) -> None:
    """Check the features before `fit`, and name the input, the row and the value that is wrong.

    The model is called without training: on all rows of a batch, or on some rows of large arrays,
    with the smallest and the largest value of each column among them. Its weights and statistics do
    not change.

    Args:
        model: The model, compiled or not. If it is not built, the call builds it.
        x: As for `fit`: arrays, or dicts or lists of arrays. Or batches of `(x, y)`: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader, Grain's datasets or
            another iterable, but no iterator or generator.
        steps: The number of batches to read; None for 100. Arrays are read whole.

    Raises:
        TypeError: If `x` holds strings where the model needs numbers, or is neither arrays nor
            batches.
        ValueError: If an input of a Functional model is missing, unknown or of another shape, or
            the model fails. If numbers are NaN or infinite, and so are the predictions, or the
            dtype of the input is an integer. If ids are not in the table of an `Embedding`, or
            become others because they are fractions or too large for the dtype of the input. If
            `x` is an iterator or has no row, or `steps` is given for arrays.

    Warns:
        UserWarning: If a column with a mean or a standard deviation above 100 reaches a Dense layer
            or a block as it is, or after a `Normalization` that was adapted to other data.

    Example:

    >>> city = keras.Input((), dtype="int32", name="city")
    >>> model = keras.Model(city, keras.layers.Embedding(4, 2)(city))
    >>> check_inputs(model, {"city": np.array([0, 3, 4])})
    Traceback (most recent call last):
    ...
    ValueError: x['city'] must be ids from 0 to 3 for the Embedding 'embedding'. \
    Received: x['city'][2]=4
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model. Received: model={short_repr(model)}")
    if not is_dataset(x):
        refuse_steps(steps, "x")
        for batch, _ in Batches(x, default=None):
            _check_batch(model, batch, set())
        return
    number, warned = 0, set[str]()
    with first_batches(x, steps, "x") as batches:
        for number, (batch, _) in enumerate(batches, start=1):
            with naming_batches(f"batch {number}"):
                _check_batch(model, batch, warned, f"In batch {number}: ")
    if not number:
        raise empty_data_error(x)


def _check_batch(model: keras.Model, x: Nested, warned: set[str], where: str = "") -> None:
    """Check arrays; `warned` has the arrays of earlier warnings, and gets those of new ones."""
    specs, is_sequential = _input_specs(model), isinstance(model, keras.Sequential)
    if specs and not is_sequential and isinstance(model.input, Mapping):
        _check_keys(specs, x)
    by_key: dict[Any, Any] = {**dict(enumerate(specs.values())), **specs}
    numbers, ids, count = {}, {}, 0
    for path, array in keras.tree.flatten_with_path(x):
        name, count = "x" + "".join(f"[{key!r}]" for key in path), len(array)
        spec = by_key.get(path[0] if path else 0)
        if not is_sequential:  # which may take other shapes than in its first call
            _check_shape(array, spec, name)
        if is_number(str(array.dtype)):
            numbers[name], ids[name] = array, _as_ids(array, spec)
            if ids[name].dtype.kind in "iu":  # NaN becomes an integer, such as 0
                _refuse_not_finite(array, name)
        elif not _takes_strings(spec):
            _refuse_strings(array, name)
    if not count:
        raise ValueError("x must hold at least one row. Received: rows=0")
    rows = _representative_rows(numbers, count)
    observer = _Observer(numbers, ids, rows)
    chosen = keras.tree.map_structure(lambda array: array[rows], x)
    try:
        if not model.built:
            model(keras.tree.map_structure(_symbolic, chosen))
        with observer.observing(model):
            outputs = model(chosen)
    except Exception as error:
        raise failed_batch_error(x, error) from error
    if observer.wrong_id and not observer.is_id_found:
        outputs = [math.nan]  # an id that is NaN becomes a wrong number
    _check_finite(numbers, rows, [to_numpy(y) for y in keras.tree.flatten(outputs)])
    if observer.wrong_id:
        raise ValueError(observer.wrong_id)
    for name, message in observer.messages.items():
        if name not in warned:
            warn_user(where + message)
            warned.add(name)


def _input_specs(model: keras.Model) -> dict[str, Any]:
    """Return the symbolic inputs of a Functional or Sequential model by name; {} for others."""
    if isinstance(model, keras.Sequential):
        return {tensor.name: tensor for tensor in getattr(model, "inputs", None) or ()}
    if functional_outputs(model) is None:
        return {}
    if isinstance(model.input, Mapping):
        return dict(model.input)
    return {tensor.name: tensor for tensor in keras.tree.flatten(model.input)}


def _check_keys(specs: dict[str, Any], x: Nested) -> None:
    """Check the keys of columns. With another key, or in a list, Keras swaps columns."""
    if isinstance(x, Mapping):
        check_keys(x, list(specs), "x")
    elif len(specs) > 1:
        raise TypeError(
            f"x must be a dict with the inputs of the model, {list(specs)}. "
            f"Received: x={short_repr(x)}"
        )


def _check_shape(array: np.ndarray, spec: object, name: str) -> None:
    """Check the shape of one input. Keras may broadcast a column to the width of the input."""
    if not isinstance(spec, keras.KerasTensor):
        return
    given, expected = (_without_end(tensor.shape[1:]) for tensor in (array, spec))
    if not shapes_match(given, expected):
        raise ValueError(
            f"{name} must have a shape {format_shape(spec.shape)}, as the input of the model. "
            f"Received: {name}.shape={array.shape}"
        )


def _without_end(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return a shape without a last axis of length 1, which Keras adds or removes."""
    return shape[:-1] if shape[-1:] == (1,) else shape


def _takes_strings(spec: object) -> bool:
    if not isinstance(spec, keras.KerasTensor):
        return bool(keras.backend.backend() == "tensorflow")
    return bool(keras.backend.standardize_dtype(spec.dtype) == "string")


def _refuse_strings(array: np.ndarray, name: str) -> None:
    wrong = (i for i, x in np.ndenumerate(array) if not isinstance(x, Number))
    index = next(wrong, (0,) * array.ndim)
    remedy = "astype('float32')" if array.dtype == object else "integer codes"
    raise TypeError(
        f"{name} must hold numbers. Convert it, such as to {remedy}. "
        f"Received: {_place(name, index)}={array.item(*index)!r}, {name}.dtype={array.dtype}"
    )


def _place(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]"


def _representative_rows(numbers: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Return all rows, or the first ones and those with an extreme value, which NaN is too."""
    if count <= MAX_ROWS:
        return np.arange(count)
    found = [np.arange(FIRST_ROWS)]
    for array in numbers.values():
        flat = _flat(array)
        if flat.shape[1] > MAX_COLUMNS:
            flat = np.stack([flat.min(axis=1), flat.max(axis=1)], axis=1)
        found += [flat.argmin(axis=0), flat.argmax(axis=0)]
    rows = np.concatenate(found)
    return np.array(list(dict.fromkeys(rows.tolist())))  # the first rows stay first


def _as_ids(array: np.ndarray, spec: object) -> np.ndarray:
    """Return an array as the model gets it if it gets integers, in the dtype of the backend."""
    dtype = str(array.dtype)
    if isinstance(spec, keras.KerasTensor):
        dtype = keras.backend.standardize_dtype(spec.dtype)
    if not dtype.startswith(("int", "uint")):
        return array
    of_backend = keras.ops.convert_to_tensor(np.zeros((), dtype)).dtype  # JAX has no int64
    with np.errstate(invalid="ignore"):
        return array.astype(keras.backend.standardize_dtype(of_backend))


def _symbolic(array: np.ndarray) -> Any:
    dtype = str(array.dtype) if is_number(str(array.dtype)) else "string"
    return keras.KerasTensor((None, *array.shape[1:]), dtype=dtype)


def _check_finite(
    numbers: Mapping[str, np.ndarray], rows: np.ndarray, outputs: list[np.ndarray]
) -> None:
    """Check that numbers are finite where the predictions are not."""
    for name, array in numbers.items():
        is_wrong = ~np.isfinite(_flat(array)[rows]).all(axis=1)
        seen = [y[is_wrong] if y.shape[:1] == rows.shape else y for y in outputs]
        if not all(np.isfinite(y).all() for y in seen):
            _refuse_not_finite(array, name)


def _refuse_not_finite(array: np.ndarray, name: str) -> None:
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        index = tuple(wrong[0])
        raise ValueError(
            f"{name} must be finite, or replaced in the model; invalid: {len(wrong)}. "
            f"Received: {_place(name, index)}={array[index]}"
        )


class _Observer:
    """Observer of the layers that read ids or numbers, during one call of a model.

    A column is recognized by its values, which reshapes, slices and concatenation keep, in any kind
    of model.

    Args:
        numbers: The arrays of numbers, by name.
        ids: The same as the model gets them: some as integers.
        rows: The rows that the model is called on.

    Attributes:
        wrong_id: The message on the first id that is not in its table; "" if there is none.
        is_id_found: Whether an array has this id, rather than a value that became it.
        messages: The warnings on columns that are not scaled, by the name of their array.
    """

    def __init__(
        self, numbers: Mapping[str, np.ndarray], ids: Mapping[str, np.ndarray], rows: np.ndarray
    ) -> None:
        self.wrong_id, self.is_id_found, self.messages = "", False, dict[str, str]()
        self._rows, self._numbers = rows, numbers
        self._ids = {name: _flat(array)[rows] for name, array in ids.items()}
        self._changed = {  # the first id that becomes another one
            name: tuple(np.argwhere(is_changed)[0])
            for name, array in numbers.items()
            if (is_changed := (ids[name] != array) & np.isfinite(array)).any()
        }
        self._large: list[tuple[str, str, np.ndarray]] = []  # the name, a text, the values
        for name, array in numbers.items():
            self._find_large(name, _flat(array)[:SCALE_ROWS], _flat(array)[rows])

    @contextmanager
    def observing(self, model: keras.Layer) -> Iterator[None]:
        """Observe the calls of the layers of a model."""
        observed: list[keras.Layer] = []
        for path in walk(model):
            name = "/".join(layer.name for layer in path[1:]) or path[0].name
            for kind, call in (
                (keras.layers.Embedding, self._call_on_ids),
                (keras.layers.Normalization, self._call_normalization),
                (keras.layers.Dense | ExpertBlock | CGCBlock, self._call_on_numbers),
            ):
                if isinstance(path[-1], kind):
                    # Not `setattr`, since Keras tracks attributes.
                    path[-1].__dict__["call"] = partial(call, path[-1].call, path[-1], name)
                    observed.append(path[-1])
        try:
            yield
        finally:
            for layer in observed:
                layer.__dict__.pop("call")

    def _call_on_ids(
        self,
        call: TensorFunction,
        layer: keras.Layer,
        name: str,
        inputs: Tensor,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        """Call an Embedding with ids that are in its table."""
        ids = _values(inputs)
        if ids is None:
            return call(inputs, *args, **kwargs)
        wrong = ~((ids >= 0) & (ids < layer.input_dim) & (ids == np.trunc(ids)))
        found = None if self.wrong_id else self._find_id(_flat(ids), _flat(wrong))
        if found:
            given, place, received = found
            self.is_id_found = given in self._ids and bool(np.isfinite(received))
            self.wrong_id = (
                f"{given} must be ids from 0 to {layer.input_dim - 1} for the Embedding {name!r}. "
                f"Received: {place}={received}"
            )
        safe = keras.ops.convert_to_tensor(np.where(wrong, 0, ids).astype(ids.dtype))
        return call(safe, *args, **kwargs)

    def _find_id(self, ids: np.ndarray, wrong: np.ndarray) -> tuple[str, str, Any] | None:
        """Return the array that has all ids of each row, and place and value of a wrong one."""
        is_by_row = len(ids) == len(self._rows)
        for name, index in self._changed.items() if is_by_row else ():
            if self._has_ids(name, ids, range(len(ids))):
                return name, _place(name, index), self._numbers[name][index]
        if not wrong.any():
            return None
        row, column = np.argwhere(wrong)[0]
        value = ids[row, column]
        if not is_by_row:
            return "x", "id", value
        rows = [*range(min(FIRST_ROWS, len(ids))), row]
        for name, array in self._ids.items():
            if self._has_ids(name, ids, rows):
                columns = np.flatnonzero(array[row] == value)
                index = (self._rows[row], *columns[: array.shape[1] > 1])
                received = _flat(self._numbers[name])[self._rows[row], columns[0]]
                return name, _place(name, index), received
        return "x", f"id in row {self._rows[row]}", value

    def _has_ids(self, name: str, ids: np.ndarray, rows: Sequence[int]) -> bool:
        """Return whether an array has all ids of each of some rows."""
        array = self._ids[name][rows]
        return bool((array[:, :, None] == ids[rows][:, None, :]).any(axis=1).all())

    def _call_normalization(
        self, call: TensorFunction, layer: keras.Layer, name: str, *args: object, **kwargs: object
    ) -> Tensor:
        """Call a Normalization. Its outputs are large if it was adapted to other data."""
        outputs = call(*args, **kwargs)
        values = _values(outputs)
        if values is not None and len(values) == len(self._rows):
            self._find_large(f"the output of {name!r}", _flat(values), _flat(values))
        return outputs

    def _find_large(self, name: str, sample: np.ndarray, columns: np.ndarray) -> None:
        with np.errstate(all="ignore"):  # infinite numbers are refused elsewhere
            means, deviations = (f(sample, 0, "float64") for f in (np.mean, np.std))
        for i in np.flatnonzero((np.abs(means) > LARGE) | (deviations > LARGE))[:MAX_LARGE]:
            column = f"{name}[:, {i}]" if sample.shape[1] > 1 else name
            text = (
                f"{column} has a mean of {means[i]:.3g} and a standard deviation of "
                f"{deviations[i]:.3g}"
            )
            self._large.append((name, text, columns[:, i]))

    def _call_on_numbers(
        self, call: TensorFunction, layer: keras.Layer, name: str, *args: object, **kwargs: object
    ) -> Tensor:
        """Call a layer that should read scaled numbers."""
        tensors = keras.tree.flatten((args, kwargs)) if self._large else []
        for values in map(_values, tensors):
            if values is None or len(values) != len(self._rows):
                continue
            tolerance = 1e-5 if values.dtype.itemsize >= 4 else 1e-2
            first = _flat(values)[:FIRST_ROWS].astype("float64")
            for given, text, column in self._large:
                is_same = np.isclose(first, column[:FIRST_ROWS, None], rtol=tolerance)
                if is_same.all(axis=0).any():
                    message = (
                        f"{text}, and the layer {name!r} reads it. Scale it with "
                        "keras.layers.Normalization, adapted to these data"
                    )
                    self.messages.setdefault(given, message)
        return call(*args, **kwargs)


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _values(tensor: Tensor) -> np.ndarray | None:
    """Return the values of a tensor with an axis of rows; None for other things and in a trace."""
    if not keras.ops.is_tensor(tensor) or not len(tensor.shape):
        return None
    try:
        values = to_numpy(tensor)
    except (TypeError, NotImplementedError):
        return None
    return values if is_number(str(values.dtype)) else None
