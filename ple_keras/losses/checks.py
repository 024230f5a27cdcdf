"""Checks of a loss and its reduction."""

from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._typing import LossLike


def check_loss(loss: LossLike | Mapping[str, object] | None) -> Any:
    """A loss: a name, a function, an object, an object's serialized form, or None."""
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


BY_BATCH = "sum_over_batch_size"


def check_reduction(reduction: str | None) -> str | None:
    """None or "sum_over_batch_size"."""
    if reduction not in (None, BY_BATCH):
        raise ValueError(
            f"reduction must be None, for the mean over the labelled examples, or {BY_BATCH!r}; "
            "any other is for the loss itself to have, such as keras.losses.Huber("
            f'reduction="sum"). Received: reduction={reduction!r}'
        )
    return reduction
