"""The loss of each example."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from ple_keras._keras.internals import set_mask
from ple_keras._keras.names import to_snake_case
from ple_keras._keras.registration import register
from ple_keras._typing import LossLike, Tensor
from ple_keras.labels.label_arrays import is_mean_of_numbers
from ple_keras.labels.sample_space import have_several_numbers

MIN_PROBABILITY = 1e-37  # close to the smallest normal number of float32


def check_loss(loss: LossLike | Mapping[str, object] | None) -> Any:
    """Return the loss from a name, a function, an object, a serialized object or None."""
    if isinstance(loss, Mapping) and "class_name" in loss:
        return keras.saving.deserialize_keras_object(loss)
    if isinstance(loss, list | tuple):
        raise TypeError(
            "loss must be one loss, not several. Add them in a function, such as "
            "`def added(y_true, y_pred): return keras.losses.huber(y_true, y_pred) + "
            "0.1 * keras.losses.mean_absolute_error(y_true, y_pred)`. Register it with "
            f"keras.saving.register_keras_serializable, so that files load. Received: loss={loss!r}"
        )
    message = (
        "loss must be the name of a Keras loss, a function or a keras.losses.Loss object. "
        f"Received: loss={loss!r}"
    )
    if isinstance(loss, type | Mapping):
        raise TypeError(message)
    try:
        keras.losses.get(loss)
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
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
    if type(known).__module__.startswith("keras_rs."):
        raise ValueError(
            "loss must return a value for each example. A loss of lists would ignore a list with "
            f"a missing label entirely: use a RankingHead. Received: loss={loss!r}"
        )
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
    names = [cls.__name__ for cls in type(loss).__mro__]
    if not isinstance(loss, keras.Loss):
        names = [getattr(loss, "__name__", "")]
    forms = {"mean_squared_error": (0.5, 0.5), "mean_absolute_error": (1.0, 1.0)}
    known = (forms[name] for name in map(to_snake_case, names) if name in forms)
    return next(known, (1.0, 0.5))


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
