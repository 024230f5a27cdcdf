"""Errors that the functions of this package raise alike."""

from collections.abc import Iterable

import keras
import numpy as np

from ple_keras._typing import Nested


def no_batch(x: Nested) -> ValueError:
    """Return the error for data without a batch."""
    return ValueError(f"x must hold at least one batch. Received: x={x!r}")


def not_taken(x: Nested, error: Exception) -> ValueError:
    """Return the error for a batch on which the model fails."""
    shapes = keras.tree.map_structure(np.shape, x)
    return ValueError(
        f"x must be what the model takes, which can't run on a batch of it: {error} "
        f"Received: x.shape={shapes}"
    )


def runs_repeatedly(model: keras.Layer, levels: Iterable[str]) -> ValueError:
    """Return the error for a model that runs levels more than once in one pass."""
    return ValueError(
        "model must run each block once, since several runs can't be told apart. "
        f"Received: model={model!r}, which runs {sorted(levels)} more than once"
    )
