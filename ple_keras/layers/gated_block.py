"""Base of the blocks whose calls can return gate weights."""

import keras

from ple_keras._keras.layers import BaseLayer, Untracked
from ple_keras._typing import Nested


class GatedBlock(BaseLayer):
    """Base of the blocks whose calls take `gate_context` and `return_gate_weights`."""

    _symbolic_outputs: Untracked[Nested] = Untracked(None)

    @property
    def output(self) -> Nested:
        """The outputs of a symbolic call, with gate weights if a call has returned them.

        Keras counts the outputs of all calls by this attribute. With the outputs of the first call,
        as in Keras, it would refuse a model of a later call that returns gate weights.
        """
        return self._symbolic_outputs.value or super().output

    def __call__(self, *args: object, **kwargs: object) -> Nested:
        """Call the block, and store the outputs of a symbolic call that returns gate weights."""
        outputs = super().__call__(*args, **kwargs)
        if kwargs.get("return_gate_weights") and isinstance(
            keras.tree.flatten(outputs)[0], keras.KerasTensor
        ):
            self._symbolic_outputs = Untracked(outputs)
        return outputs
