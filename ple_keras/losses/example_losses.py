"""The loss of each example."""

import keras
from keras import ops

from ple_keras._keras.internals import drop_mask
from ple_keras._typing import LossLike, Tensor


def example_losses(loss: LossLike, y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return the loss of each example, `(...)`, from labels and predictions `(..., units)`.

    Raises:
        ValueError: If `loss` does not return a value for each example.
    """
    known = keras.losses.get(loss)
    function = known.call if isinstance(known, keras.Loss) else known
    values = ops.convert_to_tensor(function(y_true, y_pred))
    rank = len(y_pred.shape) - 1
    drop_mask(values)  # of ignored classes, which are masked as missing labels
    if len(values.shape) == rank + 1:
        values = ops.mean(values, axis=-1)
    if len(values.shape) != rank:
        raise ValueError(
            "loss must return a value for each example, such as the mean over the last axis, so "
            f"that missing labels can be masked. For predictions {tuple(y_pred.shape)}, it "
            f"returned {tuple(values.shape)}. Received: loss={loss!r}"
        )
    return values


def ignored_class(loss: LossLike, y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return a mask of labels equal to `loss.ignore_class`, `(...)`; None if there is none."""
    ignored = getattr(loss, "ignore_class", None)
    if ignored is None:
        return None
    is_ignored = ops.equal(y_true, ops.cast(ignored, y_true.dtype))
    return ops.squeeze(is_ignored, -1) if len(y_true.shape) == len(y_pred.shape) else is_ignored
