"""Binary cross-entropy of very small probabilities."""

from typing import Any

import keras
from keras import ops

from ple_keras._keras.registration import register
from ple_keras._typing import Tensor

TINY = 1e-37  # about the smallest that float32 holds in full


@register
class ProbabilityCrossentropy(keras.Loss):
    """Binary cross-entropy that keeps its gradient at probabilities far below 1e-7.

    Keras's own takes every probability below 1e-7 for 1e-7. Products of probabilities do get
    smaller, and then a positive example would teach nothing.
    """

    def __init__(self, name: str = "binary_crossentropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        log_yes = ops.log(ops.maximum(y_pred, TINY))
        log_no = ops.log1p(-ops.minimum(y_pred, 1 - keras.config.epsilon()))
        return ops.mean(-(y_true * log_yes + (1 - y_true) * log_no), axis=-1)
