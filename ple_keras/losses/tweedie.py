"""The deviance of amounts."""

import keras
from keras import ops

from ple_keras._keras.saving import register
from ple_keras._keras.tensors import clip
from ple_keras._typing import Config, Tensor

MIN_MEAN = 1e-37  # of amounts; close to the smallest normal number of float32
MAX_EXCESS = 1e30  # of an amount, relative to its prediction; infinity minus infinity is NaN


@register
class TweedieLoss(keras.Loss):
    """Half the deviance of a Tweedie distribution with `power` p, 1 < p <= 2 (see `TweedieHead`).

    Args:
        power: The power p.
        **kwargs: Arguments of `keras.losses.Loss`.
    """

    def __init__(self, power: float, name: str = "tweedie", **kwargs: object) -> None:
        super().__init__(name=name, **kwargs)
        self.power = power

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.mean(half_deviance(y_true, y_pred, self.power), axis=-1)

    def get_config(self) -> Config:
        return {**super().get_config(), "power": self.power}


def half_deviance(y_true: Tensor, y_pred: Tensor, power: float) -> Tensor:
    """Return half the deviance of each amount, in the shape of the tensors.

    With r = y / m for the prediction m, it is `m^(2 - p) (f(r) - (r - 1)) / (1 - p)` for
    f(r) = (r^(2 - p) - 1) / (2 - p), or log(r) if p is 2. Without differences of powers, amounts
    close to their prediction keep their digits.
    """
    mean = clip(y_pred, low=MIN_MEAN)
    excess = clip((y_true - mean) / mean, high=MAX_EXCESS)
    is_zero = y_true <= 0  # whose logarithm is infinite
    log_ratio = ops.log1p(ops.where(is_zero, ops.zeros_like(excess), excess))
    if power == 2:
        return excess - log_ratio
    powers = ops.where(is_zero, -ops.ones_like(excess), ops.expm1((2 - power) * log_ratio))
    return mean ** (2 - power) * (excess - powers / (2 - power)) / (power - 1)
