"""The loss of each example."""

import keras
from keras import ops

from ple_keras._keras.internals import drop_mask
from ple_keras._typing import LossLike, Tensor


def example_losses(loss: LossLike, y_true: Tensor, y_pred: Tensor) -> Tensor:
    """The loss of each example, `(...)`, from labels and predictions `(..., units)`.

    Raises:
        ValueError: if `loss` has no value for each of them, without which none can be left out.
    """
    known = keras.losses.get(loss)
    function = known.call if isinstance(known, keras.Loss) else known
    values = ops.convert_to_tensor(function(y_true, y_pred))
    rank = len(y_pred.shape) - 1
    drop_mask(values)  # of ignored classes, which count as missing
    if len(values.shape) == rank + 1:
        values = ops.mean(values, axis=-1)
    if len(values.shape) != rank:
        raise ValueError(
            "loss must give a value for each example, as the mean over the last axis does, so that "
            "those without a label can be left out; for predictions of shape "
            f"{tuple(y_pred.shape)} it gives {tuple(values.shape)}. Received: loss={loss!r}"
        )
    return values


def ignored_class(loss: LossLike, y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Where the label is the loss's `ignore_class`, `(...)`; None for a loss without one."""
    ignored = getattr(loss, "ignore_class", None)
    if ignored is None:
        return None
    is_ignored = ops.equal(y_true, ops.cast(ignored, y_true.dtype))
    return ops.squeeze(is_ignored, -1) if len(y_true.shape) == len(y_pred.shape) else is_ignored
