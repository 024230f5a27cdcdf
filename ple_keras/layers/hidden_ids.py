"""Known codes of ids, of which training reads some as unknown."""

import keras
from keras import ops

from ple_keras._keras.saving import register
from ple_keras._typing import Tensor

UNKNOWN, FIRST = 1, 2  # the code of unknown values, and the first one of a known value


@register
class HiddenIds(keras.layers.Dropout):
    """Codes of ids, `int32`, of which training replaces a share of those from 2 by 1.

    The row of unknown values in a table thus learns from rows of all values, as new values are.
    A Dropout without a seed draws new numbers in each traced step on PyTorch, and `keras.random`
    does not.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the codes."""
        if not training:
            return inputs
        kept = super().call(ops.ones(ops.shape(inputs)), training=training)
        is_hidden = ops.logical_and(ops.equal(kept, 0), ops.greater_equal(inputs, FIRST))
        return ops.where(is_hidden, ops.cast(UNKNOWN, inputs.dtype), inputs)

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return keras.KerasTensor(inputs.shape, inputs.dtype)
