"""The rows that `fit` reads: their labels, validation rows and batches."""

import math
from collections.abc import Iterator
from itertools import chain
from operator import itemgetter
from types import GeneratorType

import keras

from ple_keras._keras.batches import is_dataset, map_arrays
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested
from ple_keras.heads.regression_heads import unadapted
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.hedging.fit_hedge import FitArguments
from ple_keras.labels.label_arrays import read_labels


def first_labels(x: Nested, y: Nested) -> tuple[Nested, Nested]:
    """Return the features or batches of `fit`, and the labels of arrays or of the first batch.

    A batch that was read from a generator is the first one of the generator that is returned.
    """
    if not is_dataset(x) or (isinstance(x, Iterator) and not isinstance(x, GeneratorType)):
        return x, y
    if (batch := next(iter(x), None)) is None:
        return x, y
    _, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    has_arrays = all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(labels))
    if isinstance(x, GeneratorType):
        x = (each for each in chain([batch], x))
    return x, map_arrays(to_numpy, labels) if has_arrays else None


def fit_data(fit_arguments: FitArguments) -> tuple[tuple[Nested, Nested], Nested]:
    """Return the data that `fit` trains on and validates with.

    Returns:
        The training labels, or a dataset with them, and their weights; and the validation data,
        `(x, y, sample_weight)`.
    """
    x, share = fit_arguments["x"], fit_arguments.get("validation_split")
    trained = x if is_dataset(x) else fit_arguments["y"], fit_arguments.get("sample_weight")
    if (data := fit_arguments.get("validation_data")) is not None:
        return trained, keras.utils.unpack_x_y_sample_weight(data)
    arrays = [each for each in keras.tree.flatten((x, *trained)) if each is not None]
    if not share or is_dataset(x) or not all(hasattr(array, "shape") for array in arrays):
        return trained, None
    end = math.floor(len(arrays[0]) * (1 - share))  # as in Keras
    first, last = itemgetter(slice(end)), itemgetter(slice(end, None))
    return map_arrays(first, trained), map_arrays(last, (x, *trained))


def adapt_heads(heads: TaskHeads, y: Nested, sample_weight: Nested, steps: int | None) -> None:
    """Adapt standardized heads that are not adapted yet, if `y` can be read twice.

    Args:
        heads: The heads.
        y: The labels, or a dataset.
        sample_weight: Weights of arrays.
        steps: The number of batches of a dataset in an epoch; None for all.
    """
    trained = heads._trained_heads()
    are_arrays = all(hasattr(labels, "shape") for labels in keras.tree.flatten(y))
    is_known = not isinstance(y, Iterator) if is_dataset(y) else are_arrays
    tasks = unadapted(trained) if is_known else []
    for task, statistics in read_labels(y, trained, steps, sample_weight).items() if tasks else ():
        if task in tasks:
            trained[task]._adapt(statistics)
