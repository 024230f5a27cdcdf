"""Iteration over any form of data that Keras takes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import keras

from ple_keras._checks import check_int, short_repr
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested, Tensor

DEFAULT_SIZE = 1024


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
        self.given = x
        size = default
        if batch_size is not None:
            size = check_int(batch_size, "batch_size", minimum=1)
        leaves = keras.tree.flatten(x)
        is_list_of_batches = isinstance(x, list) and all(type(each) is tuple for each in x)
        self._has_arrays = bool(leaves) and all(map(_is_array, leaves)) and not is_list_of_batches
        if self._has_arrays:
            self._data: Any = _map_arrays(to_numpy, (x, y))
            for argument, given, arrays in zip("xy", (x, y), self._data):
                _check_arrays(given, arrays, argument)
            self._rows = _number_of_rows(self._data)
            self._size = size or self._rows
            return
        is_batches = isinstance(x, Iterable | keras.utils.PyDataset)
        if not is_batches or isinstance(x, Mapping | str | bytes) or not leaves:
            raise TypeError(
                "x must be arrays, dicts or lists of arrays, or batches. "
                f"Received: x={short_repr(x)}"
            )
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
            x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            yield _map_arrays(to_numpy, (x, y))


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
