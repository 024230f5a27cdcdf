"""Checks of a loss and its reduction."""

from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._typing import LossLike, LossReduction


def check_loss(loss: LossLike | Mapping[str, object] | None) -> Any:
    """Return the loss from a name, a function, an object, a serialized object or None."""
    if isinstance(loss, Mapping) and "class_name" in loss:
        return keras.saving.deserialize_keras_object(loss)
    message = (
        "loss must be the name of a Keras loss, a function or a keras.losses.Loss object. "
        f"Received: loss={loss!r}"
    )
    if isinstance(loss, type | Mapping):
        raise TypeError(message)
    try:
        keras.losses.get(loss)
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    return loss


SUM_OVER_BATCH_SIZE = "sum_over_batch_size"


def check_reduction(reduction: LossReduction | None) -> LossReduction | None:
    """Return `reduction`; check that it is None or "sum_over_batch_size"."""
    if reduction not in (None, SUM_OVER_BATCH_SIZE):
        raise ValueError(
            "reduction must be None, for the mean over labelled examples, or "
            f"{SUM_OVER_BATCH_SIZE!r}. Set any other on the loss itself, such as "
            f'keras.losses.Huber(reduction="sum"). Received: reduction={reduction!r}'
        )
    return reduction
