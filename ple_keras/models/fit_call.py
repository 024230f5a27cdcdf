"""A call of `fit`: its rows, validation data and callbacks."""

import inspect
import math
from collections.abc import Iterator
from itertools import chain, combinations
from operator import itemgetter
from types import GeneratorType
from typing import Any

import keras

from ple_keras._keras.batches import is_dataset, map_arrays
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested
from ple_keras.heads.regression_heads import unadapted
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.hedging.fit_hedge import FitArguments, FitHedge
from ple_keras.labels.label_arrays import read_labels
from ple_keras.labels.sample_space import check_dtype, is_nullable_number


class FitCall:
    """A call of `fit`.

    Args:
        *args: Arguments of `keras.Model.fit`.
        **kwargs: Arguments of `keras.Model.fit`.

    Attributes:
        arguments: All arguments.
        labels: The labels of the training rows, or batches.
        sample_weight: The weights of the training rows.
        validation: `(x, y, sample_weight)` of validation rows; None without them.
        callbacks: The callbacks.
        hedges: The FitHedges among them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(keras.Model.fit).bind(None, *args, **kwargs)
        self.arguments: dict[str, Any] = bound.arguments
        del self.arguments["self"]
        (self.labels, self.sample_weight), self.validation = _split_rows(self.arguments)
        callbacks = self.arguments.get("callbacks") or []
        self.callbacks = [*getattr(callbacks, "callbacks", keras.tree.flatten(callbacks))]
        self.hedges = [each for each in self.callbacks if isinstance(each, FitHedge)]

    def check_callbacks(self) -> None:
        """Check that no callback restores weights after a FitHedge."""
        restoring = [x for x in self.callbacks if getattr(x, "restore_best_weights", False)]
        for first, later in combinations(restoring, 2):
            if isinstance(first, FitHedge) and not isinstance(later, FitHedge):
                raise ValueError(
                    "EarlyStopping with restore_best_weights=True must come before FitHedge, which "
                    "restores each branch to its own best epoch. "
                    f"Received: callbacks=[{type(first).__name__}, {type(later).__name__}]"
                )

    def reads_logs(self) -> bool:
        """Return whether callbacks or a progress bar can show the logs of batches."""
        has_readers = any(type(each) is not FitHedge for each in self.callbacks)
        return has_readers or self.arguments.get("verbose", "auto") in ("auto", 1)


def _split_rows(fit_arguments: FitArguments) -> tuple[tuple[Nested, Nested], Nested]:
    """Return the training labels and their weights, and the validation data (see FitCall)."""
    x, share = fit_arguments["x"], fit_arguments.get("validation_split")
    trained = x if is_dataset(x) else fit_arguments["y"], fit_arguments.get("sample_weight")
    given = fit_arguments.get("validation_data")
    if given is not None:
        return trained, keras.utils.unpack_x_y_sample_weight(given)
    arrays = [each for each in keras.tree.flatten((x, *trained)) if each is not None]
    if not share or is_dataset(x) or not _are_arrays(arrays):
        return trained, None
    end = math.floor(len(arrays[0]) * (1 - share))  # Keras rounds down
    first, last = itemgetter(slice(end)), itemgetter(slice(end, None))
    return map_arrays(first, trained), map_arrays(last, (x, *trained))


def _are_arrays(labels: Nested) -> bool:
    return all(hasattr(each, "shape") for each in keras.tree.flatten(labels))


def check_columns(x: Nested, y: Nested) -> None:
    """Check that no column of numbers has values that only pandas has."""
    for name, columns in {"x": x, "y": y}.items():
        for key, column in columns.items() if hasattr(columns, "items") else ():
            if is_nullable_number(column):
                check_dtype(column, f"{name}[{key!r}]")


def first_labels(x: Nested, y: Nested) -> tuple[Nested, Nested]:
    """Return the features or batches of `fit`, and the labels of arrays or of the first batch.

    A batch that was read from a generator is the first one of the generator that is returned.
    """
    if not is_dataset(x) or (isinstance(x, Iterator) and not isinstance(x, GeneratorType)):
        return x, y
    batch = next(iter(x), None)
    if batch is None:
        return x, y
    _, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if isinstance(x, GeneratorType):
        x = (each for each in chain([batch], x))
    return x, map_arrays(to_numpy, labels) if _are_arrays(labels) else None


def adapt_heads(heads: TaskHeads, call: FitCall) -> None:
    """Adapt standardized heads that are not adapted yet, if the labels can be read twice."""
    trained, y = heads._trained_heads(), call.labels
    is_read_once = isinstance(y, Iterator) if is_dataset(y) else not _are_arrays(y)
    tasks = unadapted(trained)
    if is_read_once or not tasks:
        return
    steps = call.arguments.get("steps_per_epoch")
    for task, statistics in read_labels(y, trained, steps, call.sample_weight).items():
        if task in tasks:
            trained[task]._adapt(statistics)
