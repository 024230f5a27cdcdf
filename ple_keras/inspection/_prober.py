"""Probes on the tensors that levels read."""

from collections.abc import Callable, Mapping

import keras
from keras import ops

from ple_keras._typing import Streams, Tensor
from ple_keras.inspection._counting_observer import CountingObserver
from ple_keras.inspection._gradients import Probe


class Prober(CountingObserver):
    """Puts a probe on the tensor that a level reads, where it is one for all streams."""

    def __init__(self, names: Mapping[int, str], probe: Probe) -> None:
        super().__init__(names)
        self._probe = probe

    def on_inputs(self, block: keras.Layer, inputs: Streams) -> Streams:
        level, is_first = self.meet(block)
        if isinstance(inputs, Mapping) or not is_first:
            return inputs
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            inputs = ops.cast(inputs, block.compute_dtype)  # integers have no gradient
        return _KeepMask(lambda tensor: self._probe(level, tensor))(inputs)


class _KeepMask(keras.layers.Layer):
    """A function of a tensor, as a layer, for Keras to hand the tensor's mask on."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self._function = function

    def call(self, inputs: Tensor) -> Tensor:
        return self._function(inputs)
