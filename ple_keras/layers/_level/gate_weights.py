"""What a gate makes of its logits, and sums of it over a batch."""

from typing import Any

import keras
from keras import ops


def at_least_float32(x: Any) -> Any:
    """`x`, cast up where its dtype has fewer bits than float32."""
    is_half = keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
    return ops.cast(x, "float32") if is_half else x


def softmax(logits: Any) -> Any:
    """Softmax over the last axis; written out on TensorFlow, whose own takes three times as long.

    That works row by row, and a row is but as long as a gate has experts.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.softmax(logits)
    exponentials = ops.exp(logits - ops.stop_gradient(largest(logits)))
    return exponentials * (1 / ops.sum(exponentials, axis=-1, keepdims=True))


def largest(values: Any, axis: int = -1) -> Any:
    """The largest of each example, `(..., 1)` by default, in batches that may be empty."""
    if 0 in values.shape:
        return values[..., :1]
    return ops.amax(values, axis=axis, keepdims=True)  # torch.compile can't follow ops.max


def total(values: Any, mask: Any) -> Any:
    """The sum over all examples, or those that a mask `(...)` calls valid: `(..., n)` to `(n,)`."""
    if mask is not None:
        values = values * ops.expand_dims(ops.cast(mask, values.dtype), -1)
    return ops.sum(values, axis=tuple(range(len(values.shape) - 1)))
