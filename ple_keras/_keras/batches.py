"""Iteration over any form of data that Keras accepts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from operator import itemgetter
from typing import Any, TypeAlias

import keras
import numpy as np

from ple_keras._checks import check_int, short_repr
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested, Tensor

Batch: TypeAlias = tuple[Nested, Nested, Nested]  # (x, y, sample_weight)
DEFAULT_SIZE = 1024
DEFAULT_STEPS = 100


class Batches:
    """Iterable of batches `(x, y, sample_weight)` of NumPy arrays, nested like the data.

    Args:
        x: Arrays, or dicts or lists of arrays; or batches of `x` or `(x, y, ...)`: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader or any iterable.
        y: Arrays; None with batches.
        batch_size: The number of rows per batch, only for arrays; None for `default`.
        default: The default batch size; None for all rows in one batch.
        steps: The number of batches; None for all.
        argument: The name of `x` in messages about batches.
        sample_weight: Arrays; None with batches, and without weights.

    Attributes:
        rows: The number of rows, only of arrays.

    Raises:
        TypeError: If `x` is neither arrays nor batches, or `batch_size` is not an integer.
        ValueError: If arrays are empty or differ in length, `batch_size` is below 1, or `y` or
            `batch_size` is given with batches. In iteration, if there is no batch.
    """

    def __init__(
        self,
        x: Nested,
        y: Nested = None,
        batch_size: int | None = None,
        default: int | None = DEFAULT_SIZE,
        steps: int | None = None,
        argument: str = "x",
        sample_weight: Nested = None,
    ) -> None:
        self._data: Any = x
        self._steps = steps
        self._argument = argument
        self._is_dataset = is_dataset(x)
        if self._is_dataset:
            of_arrays = {"y": y, "batch_size": batch_size, "sample_weight": sample_weight}
            for name, value in of_arrays.items():
                if value is not None:
                    raise ValueError(
                        f"{name} must be None if {argument} contains batches. "
                        f"Received: {name}={short_repr(value)}"
                    )
            return
        if not all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x) or [x]):
            raise TypeError(
                "x must be arrays, a dict or list of arrays, or batches. "
                f"Received: x={short_repr(x)}"
            )
        self._data = map_arrays(to_numpy, (x, y, sample_weight))
        arrays = [array for array in keras.tree.flatten(self._data) if array is not None]
        rows = {len(array) if array.ndim else 0 for array in arrays}  # 0 marks a list of numbers
        if len(rows) > 1 or 0 in rows:
            raise ValueError(
                "x, y and weights must be arrays, not lists, with the same number of rows, and at "
                f"least one row. Received: rows={sorted(rows)}"
            )
        self.rows = rows.pop()
        size = default or self.rows
        self._size = size if batch_size is None else check_int(batch_size, "batch_size", minimum=1)

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._all(), self._steps)

    def _all(self) -> Iterator[Batch]:
        if not self._is_dataset:
            for start in range(0, self.rows, self._size):
                yield map_arrays(itemgetter(slice(start, start + self._size)), self._data)
            return
        batch = None
        for batch in self._data:
            yield map_arrays(to_numpy, keras.utils.unpack_x_y_sample_weight(batch))
        if batch is None:
            raise ValueError(f"{self._argument} must not be empty. Received: batches=0")


def first_batches(
    data: Nested, steps: int | None, argument: str, sample_weight: Nested = None
) -> Iterator[Batch]:
    """Return an iterator over the first batches `(x, y, sample_weight)` of a dataset.

    Args:
        data: A dataset of batches, as for `is_dataset`.
        steps: The number of batches; None for 100.
        argument: The name of the data in messages.
        sample_weight: None, since batches contain their weights.

    Raises:
        TypeError: If `steps` is not an integer.
        ValueError: If `data` is an iterator, which can be read only once, `steps` is below 1, or
            `sample_weight` is given.
    """
    steps = DEFAULT_STEPS if steps is None else check_int(steps, "steps", minimum=1)
    refuse_batches(data, argument, endless=False)
    return islice(Batches(data, argument=argument, sample_weight=sample_weight), steps)


def refuse_batches(
    data: Nested, argument: str, endless: bool = True, iterators: bool = True
) -> None:
    """Raise an error for batches that have no end, or that can be read only once.

    Args:
        data: The batches, or arrays.
        argument: The name of the data in messages.
        endless: Whether batches without an end are refused.
        iterators: Whether iterators are refused.
    """
    is_endless = isinstance(data, keras.utils.PyDataset) and data.num_batches is None
    if hasattr(data, "cardinality"):
        is_endless = int(data.cardinality()) == -1  # a repeated tf.data.Dataset
    if (endless and is_endless) or (iterators and isinstance(data, Iterator)):
        raise ValueError(
            f"{argument} must be finite and iterable more than once, such as `take(100)` of an "
            f"endless tf.data.Dataset. Received: {argument}={short_repr(data)}"
        )


def is_dataset(data: Nested) -> bool:
    """Return whether data are batches, not arrays, lists of numbers or dicts of these."""
    if isinstance(data, keras.utils.PyDataset):  # a PyDataset can have an attribute `shape`
        return True
    if isinstance(data, list):  # a list of batches
        return bool(data) and all(type(each) is tuple for each in data)
    is_array = hasattr(data, "shape") or isinstance(data, Mapping | str | bytes | tuple)
    return isinstance(data, Iterable) and not is_array


def map_arrays(function: Callable[[Tensor], Tensor], data: Nested) -> Any:
    """Apply a function to every array; None stays None."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else function(leaf), data)


@contextmanager
def naming_input(x: Nested) -> Iterator[None]:
    """Raise an error with the shapes of a batch if a model fails on it."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"x must be valid input for the model, which failed on a batch: {error} "
            f"Received: x.shape={keras.tree.map_structure(np.shape, x)}"
        ) from error
