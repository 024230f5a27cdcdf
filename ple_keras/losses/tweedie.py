"""The deviance of amounts."""

from keras import ops

from ple_keras._keras.tensors import clip
from ple_keras._typing import LossFunction, Tensor

MIN_MEAN, MAX_MEAN = 1e-18, 1e37  # limits of predictions; the square of the smallest is a float32
MIN_RATIO = 1e-15  # prediction / label; the square of the inverse is finite


def tweedie_loss(power: float) -> LossFunction:
    """Return half the deviance of a Tweedie distribution, 1 < p <= 2, as a loss of examples."""

    def tweedie(y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.mean(half_deviance(y_true, y_pred, power), axis=-1)

    return tweedie


def half_deviance(y_true: Tensor, y_pred: Tensor, power: float) -> Tensor:
    """Return half the deviance of each amount, in the shape of the tensors.

    With r = y / m for the prediction m, it is `m^(2 - p) (f(r) - (r - 1)) / (1 - p)` for
    f(r) = (r^(2 - p) - 1) / (2 - p), or log(r) if p is 2. Without differences of powers, amounts
    close to their prediction keep their digits.
    """
    mean = ops.maximum(clip(y_pred, MIN_MEAN, MAX_MEAN), y_true * MIN_RATIO)
    ratio, excess = y_true / mean, (y_true - mean) / mean
    is_zero, is_close = y_true <= 0, ops.abs(excess) < 0.5
    # The gradients of unselected values must be finite: a logarithm of 0 has none.
    close = ops.log1p(ops.where(is_close, excess, ops.zeros_like(excess)))
    far = ops.log(clip(ops.where(is_zero, ops.ones_like(ratio), ratio), low=MIN_MEAN**2))
    log_ratio = ops.where(is_close, close, far)
    excess = ops.where(is_close, excess, ratio - 1)  # the gradient is finite for large means
    if power == 2:
        return excess - log_ratio
    powers = ops.where(is_zero, -ops.ones_like(excess), ops.expm1((2 - power) * log_ratio))
    return mean ** (2 - power) * (excess - powers / (2 - power)) / (power - 1)
