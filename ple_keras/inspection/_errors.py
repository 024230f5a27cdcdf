"""Errors that several functions of this package raise."""

from collections.abc import Iterable

import keras
import numpy as np

from ple_keras._checks import short_repr
from ple_keras._typing import Nested


def empty_data_error(x: Nested) -> ValueError:
    """Return the error for data without a batch."""
    return ValueError(f"x must hold at least one batch. Received: x={short_repr(x)}")


def failed_batch_error(x: Nested, error: Exception) -> ValueError:
    """Return the error for a batch on which the model fails."""
    shapes = keras.tree.map_structure(np.shape, x)
    return ValueError(
        f"x must be valid input of the model, which failed on a batch: {error} "
        f"Received: x.shape={shapes}"
    )


def repeated_run_error(model: keras.Layer, levels: Iterable[str]) -> ValueError:
    """Return the error for a model that runs levels more than once in one pass."""
    return ValueError(
        "model must run each block once, since the runs of a block share one name. "
        f"Received: model={model!r}, which runs {sorted(levels)} more than once"
    )
