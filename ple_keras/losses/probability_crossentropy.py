"""Binary cross-entropy for very small probabilities."""

from typing import Any

import keras
from keras import ops

from ple_keras._keras.registration import register
from ple_keras._typing import Tensor

MIN_PROBABILITY = 1e-37  # close to the smallest normal number of float32


@register
class ProbabilityCrossentropy(keras.Loss):
    """Binary cross-entropy with a gradient at probabilities far below 1e-7.

    Keras's own clips probabilities at 1e-7. Products of probabilities can be smaller, and a
    positive example would then have no gradient.
    """

    def __init__(self, name: str = "binary_crossentropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.mean(crossentropy(y_true, y_pred), axis=-1)


def crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return the cross-entropy of each probability, of the shape of the labels."""
    log_positive = ops.log(ops.maximum(y_pred, MIN_PROBABILITY))
    log_negative = ops.log1p(-ops.minimum(y_pred, 1 - keras.config.epsilon()))
    return -(y_true * log_positive + (1 - y_true) * log_negative)
