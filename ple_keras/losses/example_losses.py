"""The loss of each example."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_known
from ple_keras._keras.internals import set_mask
from ple_keras._keras.names import to_snake_case
from ple_keras._keras.registration import register
from ple_keras._typing import LossLike, Tensor
from ple_keras.labels.label_arrays import is_mean_of_numbers
from ple_keras.labels.sample_space import have_several_numbers

MIN_PROBABILITY = 1e-37  # close to the smallest normal number of float32


def check_loss(loss: LossLike | Mapping[str, object] | None) -> Any:
    """Return the loss from a name, a function, an object, a serialized object or None."""
    known = check_known(keras.losses.get, loss, "loss")
    loss = known if isinstance(loss, Mapping | type) else loss
    reduction = getattr(known, "reduction", "mean")
    if reduction not in ("mean", "sum_over_batch_size"):
        raise ValueError(
            "loss must have the default reduction, since the losses of labeled examples are "
            f"averaged. Received: loss={loss!r} with reduction={reduction!r}"
        )
    return loss


def example_losses(loss: LossLike, y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return the loss of each example, `(...)`, or of each number of its label, `(..., units)`.

    A loss that is the mean of the losses of several numbers has a value for each number.

    Args:
        loss: A name, a function or a `keras.losses.Loss`.
        y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`.
        y_pred: Predictions, `(..., units)`.

    Raises:
        ValueError: If `loss` does not return a value for each example.
    """
    known = keras.losses.get(loss)
    function = known.call if isinstance(known, keras.Loss) else known
    if have_several_numbers(y_true, y_pred) and is_mean_of_numbers(loss):
        y_true, y_pred = ops.expand_dims(y_true, -1), ops.expand_dims(y_pred, -1)
    values = ops.convert_to_tensor(function(y_true, y_pred))
    rank = len(y_pred.shape) - 1
    set_mask(values, None)  # of ignored classes, which are masked as missing labels
    if len(values.shape) == rank + 1:
        values = ops.mean(values, axis=-1)
    if len(values.shape) != rank:
        raise ValueError(
            "loss must return a value for each example, such as the mean over the last axis, so "
            f"that missing labels can be masked. For predictions {tuple(y_pred.shape)}, it "
            f"returned {tuple(values.shape)}. Received: loss={loss!r}"
        )
    return values


def uncertainty_form(loss: LossLike) -> tuple[float, float]:
    """Return c and a of `c exp(-s) L + a s`, the negative log-likelihood with the scale `exp(s)`.

    Squared errors have a normal distribution with the log-variance s: `L / (2 sigma^2) + log
    sigma`. Absolute errors have a Laplace distribution, and s is the logarithm of its scale. All
    other losses have the scaled softmax of Kendall, Gal and Cipolla (CVPR 2018): `L / sigma^2 + log
    sigma`.
    """
    loss = keras.losses.get(loss)
    classes = type(loss).__mro__ if isinstance(loss, keras.Loss) else [loss]
    names = [to_snake_case(getattr(each, "__name__", "")) for each in classes]
    if "mean_squared_error" in names:
        return 0.5, 0.5
    return (1.0, 1.0) if "mean_absolute_error" in names else (1.0, 0.5)


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
