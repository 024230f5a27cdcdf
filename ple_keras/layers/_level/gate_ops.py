"""Operations of gates: the softmax, and sums over a batch."""

import keras
from keras import ops

from ple_keras._typing import Tensor


def softmax(logits: Tensor, axis: int = -1) -> Tensor:
    """Softmax over an axis; written out on TensorFlow, whose own takes three times as long.

    That works row by row, and a row is but as long as a gate has experts.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.softmax(logits, axis=axis)
    exponentials = ops.exp(logits - ops.stop_gradient(largest(logits, axis)))
    return exponentials * (1 / ops.sum(exponentials, axis=axis, keepdims=True))


def largest(values: Tensor, axis: int = -1) -> Tensor:
    """The largest of each example, `(..., 1)` by default, in batches that may be empty."""
    if 0 in values.shape:
        return values[..., :1]
    return ops.amax(values, axis=axis, keepdims=True)  # torch.compile can't follow ops.max


def masked_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """The sum over all examples, or those that a mask `(...)` calls valid: `(..., n)` to `(n,)`."""
    if mask is not None:
        values = values * ops.expand_dims(ops.cast(mask, values.dtype), -1)
    return ops.sum(values, axis=tuple(range(len(values.shape) - 1)))
