"""Operations of gates: softmax, maximum and masked sum."""

import keras
from keras import ops

from ple_keras._typing import Tensor


def softmax(logits: Tensor, axis: int = -1) -> Tensor:
    """Compute the softmax over an axis.

    TensorFlow's softmax works row by row and takes three times as long for the short rows of gates.
    It is replaced by elementary operations.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.softmax(logits, axis=axis)
    exponentials = ops.exp(logits - ops.stop_gradient(largest(logits, axis)))
    return exponentials * (1 / ops.sum(exponentials, axis=axis, keepdims=True))


def largest(values: Tensor, axis: int = -1) -> Tensor:
    """Return the maximum over an axis, which is kept. The batch may be empty."""
    if 0 in values.shape:
        return values[..., :1]
    return ops.amax(values, axis=axis, keepdims=True)  # torch.compile doesn't support ops.max


def masked_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sum `(..., n)` to `(n,)` over all examples, or those that are valid in a mask `(...)`."""
    if mask is not None:
        values = values * ops.expand_dims(ops.cast(mask, values.dtype), -1)
    return ops.sum(values, axis=tuple(range(len(values.shape) - 1)))
