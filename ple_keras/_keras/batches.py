"""Iteration over any form of data that Keras takes."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from operator import itemgetter
from typing import Any

import keras

from ple_keras._checks import check_int, short_repr
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested, Tensor

DEFAULT_SIZE = 1024
DEFAULT_STEPS = 100


class Batches:
    """Iterable of batches `(x, y)` of NumPy arrays, nested as in the given data.

    Args:
        x: Arrays, or dicts or lists of arrays; or batches of `x` or `(x, y, ...)`: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader or any iterable.
        y: Arrays; None with batches.
        batch_size: The number of rows per batch, for arrays only; None for `default`.
        default: The default batch size; None for all rows in one batch.

    Attributes:
        given: `x`.
        has_weights: Whether sample weights were found, which are left out.

    Raises:
        TypeError: If `x` is neither arrays nor batches, or `batch_size` is not an integer.
        ValueError: If arrays are empty or differ in length, or `batch_size` is below 1. If `y` or
            `batch_size` is given with batches, or a PyDataset has no number of batches.
    """

    def __init__(
        self,
        x: Nested,
        y: Nested = None,
        batch_size: int | None = None,
        default: int | None = DEFAULT_SIZE,
    ) -> None:
        self.given, self.has_weights = x, False
        size = default
        if batch_size is not None:
            size = check_int(batch_size, "batch_size", minimum=1)
        self._has_arrays = not is_dataset(x)
        if self._has_arrays:
            leaves = keras.tree.flatten(x)
            if not leaves or not all(map(_is_array, leaves)):
                raise TypeError(
                    "x must be arrays, dicts or lists of arrays, or batches. "
                    f"Received: x={short_repr(x)}"
                )
            self._data: Any = _map_arrays(to_numpy, (x, y))
            for argument, given, arrays in zip("xy", (x, y), self._data):
                _check_arrays(given, arrays, argument)
            self._rows = _number_of_rows(self._data)
            self._size = size or self._rows
            return
        if y is not None or batch_size is not None:
            raise ValueError(
                "y and batch_size must be None if x consists of batches. "
                f"Received: y={short_repr(y)}, batch_size={batch_size!r}"
            )
        if isinstance(x, keras.utils.PyDataset) and x.num_batches is None:
            raise ValueError(
                "x must have a known number of batches, but its num_batches is None. "
                f"Received: x={x!r}"
            )
        self._data = x

    def __len__(self) -> int:
        """Return the number of batches.

        Raises:
            TypeError: If it is unknown.
        """
        if self._has_arrays:
            return -(-self._rows // self._size)
        if isinstance(self._data, keras.utils.PyDataset):
            return int(self._data.num_batches)
        return len(self._data)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self._has_arrays:
            for start in range(0, self._rows, self._size):
                rows = slice(start, start + self._size)
                yield _map_arrays(itemgetter(rows), self._data)
            return
        batches = self._data
        if isinstance(batches, keras.utils.PyDataset):
            batches = map(batches.__getitem__, range(len(self)))
        for batch in batches:
            x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
            self.has_weights |= weights is not None
            yield _map_arrays(to_numpy, (x, y))


@contextmanager
def first_batches(data: Nested, steps: int | None, argument: str) -> Iterator[Iterator[Any]]:
    """Open an iterator over the first batches `(x, y)` of a dataset, which later reads repeat.

    Args:
        data: A dataset of batches, as for `is_dataset`.
        steps: The number of batches; None for 100.
        argument: The name of the data in messages.

    Raises:
        TypeError: If `steps` is not an integer.
        ValueError: If `data` is an iterator, which can be read only once, or `steps` is below 1.
    """
    steps = DEFAULT_STEPS if steps is None else check_int(steps, "steps", minimum=1)
    if isinstance(data, Iterator):
        raise ValueError(
            f"{argument} must be data that can be read more than once, since an iterator would "
            "lose the batches that are checked: arrays, a tf.data.Dataset, a PyDataset, a "
            f"DataLoader or another iterable. Received: {argument}={short_repr(data)}"
        )
    states = [(generator, generator.get_state()) for generator in _torch_generators(data)]
    try:
        yield islice(Batches(data), steps)
    finally:
        for generator, state in states:
            generator.set_state(state)


@contextmanager
def naming_batches(where: str) -> Iterator[None]:
    """Add the batches to the message of an error, such as "batch 3"."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"In {where}: {error}") from error


def refuse_steps(steps: int | None, argument: str) -> None:
    """Raise an error if a number of batches is given for arrays."""
    if steps is not None:
        raise ValueError(
            f"steps must be None if {argument} holds arrays, which are read whole. "
            f"Received: {steps=}"
        )


def _torch_generators(data: Nested) -> list[Any]:
    """Return the generators from which a DataLoader's iterator draws its seed and its order."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    owned = [getattr(owner, "generator", None) for owner in (data, getattr(data, "sampler", None))]
    return [torch.default_generator, *(each for each in owned if isinstance(each, torch.Generator))]


def is_dataset(data: Nested) -> bool:
    """Return whether data are batches, not arrays, lists of numbers or a dict of them."""
    if isinstance(data, keras.utils.PyDataset):
        return True
    is_array = _is_array(data) or isinstance(data, Mapping | str | bytes | tuple)
    if isinstance(data, list):  # of batches
        return bool(data) and all(type(each) is tuple for each in data)
    return isinstance(data, Iterable) and not is_array


def _is_array(value: object) -> bool:
    """Return whether a value has rows, as arrays, tensors and data frames have."""
    return hasattr(value, "shape") and not isinstance(value, keras.utils.PyDataset)


def _map_arrays(function: Callable[[Tensor], Tensor], data: Nested) -> Any:
    """Apply a function to every array; None stays None."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else function(leaf), data)


def _check_arrays(given: Nested, arrays: Nested, argument: str) -> None:
    if any(array is not None and array.ndim == 0 for array in keras.tree.flatten(arrays)):
        raise TypeError(
            f"{argument} must hold arrays, not numbers or lists of numbers. "
            f"Received: {argument}={short_repr(given)}"
        )


def _number_of_rows(data: Nested) -> int:
    arrays = [array for array in keras.tree.flatten(data) if array is not None]
    rows = {len(array) for array in arrays}
    if len(rows) > 1 or 0 in rows:
        raise ValueError(
            "all arrays in x and y must have the same number of rows, at least 1. "
            f"Received: rows={sorted(rows)}"
        )
    return rows.pop()
