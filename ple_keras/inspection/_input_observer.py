"""An observer of the tensors that levels read."""

from collections.abc import Callable, Mapping

import keras
from keras import ops

from ple_keras._typing import Streams, Tensor
from ple_keras.inspection._counting_observer import CountingObserver

ObserveInput = Callable[[str, Tensor], Tensor]


class InputObserver(CountingObserver):
    """Observer that applies a function to a level's input, if it is one tensor for all streams."""

    def __init__(self, names: Mapping[int, str], observe: ObserveInput) -> None:
        super().__init__(names)
        self._observe = observe

    def on_inputs(self, block: keras.Layer, inputs: Streams) -> Streams:
        level, is_first = self.count_run(block)
        if isinstance(inputs, Mapping) or not is_first:
            return inputs
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            inputs = ops.cast(inputs, block.compute_dtype)  # integers have no gradient
        return _KeepMask(lambda tensor: self._observe(level, tensor))(inputs)


class _KeepMask(keras.layers.Layer):
    """Layer that applies a function, since Keras keeps the masks of layer inputs only."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self._function = function

    def call(self, inputs: Tensor) -> Tensor:
        return self._function(inputs)
