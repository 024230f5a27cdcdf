"""The pinball loss of quantiles."""

from collections.abc import Sequence

from keras import ops

from ple_keras._typing import LossFunction, Tensor


def pinball_loss(quantiles: Sequence[float]) -> LossFunction:
    """Return the mean pinball loss of quantiles, `(..., n)`, of labels `(...)` or `(..., 1)`."""

    def pinball(y_true: Tensor, y_pred: Tensor) -> Tensor:
        if len(y_true.shape) < len(y_pred.shape):
            y_true = ops.expand_dims(y_true, -1)
        errors = y_true - y_pred
        levels = ops.convert_to_tensor(quantiles, errors.dtype)
        return ops.mean(ops.maximum(levels * errors, (levels - 1) * errors), axis=-1)

    return pinball
