"""The rows that `fit` reads: their labels, validation rows and batches."""

import math
from collections.abc import Mapping
from operator import itemgetter

import keras

from ple_keras._keras.batches import is_dataset, map_arrays
from ple_keras._typing import Nested
from ple_keras.heads.regression_heads import unadapted
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.hedging.fit_hedge import FitArguments
from ple_keras.labels.label_arrays import read_labels


def split_rows(given: FitArguments) -> tuple[tuple[Nested, Nested], Nested]:
    """Return the rows of `fit`.

    Returns:
        The training labels and their weights; and the validation data, `(x, y, sample_weight)`.
    """
    x, y, share = given["x"], given["y"], given.get("validation_split")
    trained = y, given.get("sample_weight")
    if (data := given.get("validation_data")) is not None:
        return trained, keras.utils.unpack_x_y_sample_weight(data)
    arrays = [each for each in keras.tree.flatten((x, *trained)) if each is not None]
    if not share or is_dataset(x) or not all(hasattr(array, "shape") for array in arrays):
        return trained, None
    end = math.floor(len(arrays[0]) * (1 - share))  # as in Keras
    return map_arrays(itemgetter(slice(end)), trained), map_arrays(
        itemgetter(slice(end, None)), (x, *trained)
    )


def adapt_heads(heads: TaskHeads, y: Nested, sample_weight: Nested) -> None:
    """Adapt standardized heads that nobody has adapted, if `y` has arrays."""
    trained = heads._trained_heads()
    if len(trained) == 1 and not isinstance(y, Mapping):
        y = dict.fromkeys(trained, y)
    is_known = isinstance(y, Mapping) and all(hasattr(labels, "shape") for labels in y.values())
    tasks = unadapted(trained) if is_known else []
    for task, statistics in read_labels(y, trained, None, sample_weight).items() if tasks else ():
        if task in tasks:
            trained[task]._adapt(statistics)
