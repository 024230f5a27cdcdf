"""Losses of the heads: with a weight for each label, and for very small probabilities."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_not_negative, check_number
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import LossLike, Tensor
from ple_keras.losses.masked_loss import SUM_OVER_BATCH_SIZE, check_loss, example_losses

MIN_PROBABILITY = 1e-37  # close to the smallest normal number of float32


class WrappedLoss(keras.Loss):
    """A loss of a head, computed from another loss.

    It is wrapped in a MaskedLoss or MaskedMetric, which align labels and predictions.

    Args:
        loss: The loss of an example.
        prefix: The name is `{prefix}_{name of the loss}`.
    """

    def __init__(self, loss: LossLike, prefix: str) -> None:
        self.loss = check_loss(loss)
        self.ignore_class = getattr(self.loss, "ignore_class", None)  # masked, as for the loss
        reduction = getattr(self.loss, "reduction", SUM_OVER_BATCH_SIZE)
        super().__init__(f"{prefix}_{stable_name(self.loss)}", reduction)

    def get_config(self) -> dict[str, Any]:
        return {"loss": keras.saving.serialize_keras_object(self.loss)}


def without_wrapper(loss: LossLike | None) -> Any:
    """Return the loss inside a WrappedLoss, or another loss itself."""
    return loss.loss if isinstance(loss, WrappedLoss) else loss


class WeightedLoss(WrappedLoss):
    """A loss that is multiplied by a weight for each example, which depends on its label.

    Args:
        loss: The loss of an example.
    """

    def __init__(self, loss: LossLike) -> None:
        super().__init__(loss, "weighted")

    def _example_weights(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the weight of each example, `(...)`."""
        raise NotImplementedError

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self._example_weights(y_true, y_pred) * example_losses(self.loss, y_true, y_pred)


@register
class PositiveWeightLoss(WeightedLoss):
    """A loss of probabilities, multiplied by `pos_weight` for examples with the label 1.

    Args:
        loss: The loss of an example.
        pos_weight: A number above 0.
    """

    def __init__(self, loss: LossLike, pos_weight: float) -> None:
        super().__init__(loss)
        self.pos_weight = check_number(pos_weight, "pos_weight")
        if self.pos_weight <= 0:
            raise ValueError(f"pos_weight must be above 0. Received: pos_weight={pos_weight!r}")

    def _example_weights(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return 1 + (self.pos_weight - 1) * ops.squeeze(y_true, -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pos_weight": self.pos_weight}


@register
class ClassWeightLoss(WeightedLoss):
    """A loss of class probabilities, multiplied by the weight of the label's class.

    If the label is a probability for each class, the weight is the mean of the classes' weights
    under these probabilities.

    Args:
        loss: The loss of an example.
        class_weights: A number for each class, as returned by `check_class_weights`.
    """

    def __init__(self, loss: LossLike, class_weights: Sequence[float]) -> None:
        super().__init__(loss)
        self.class_weights = tuple(class_weights)

    def _example_weights(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        weights = ops.convert_to_tensor(self.class_weights, y_pred.dtype)
        if len(y_true.shape) == len(y_pred.shape):
            if y_true.shape[-1] != 1:
                return ops.matmul(ops.cast(y_true, y_pred.dtype), weights)
            y_true = ops.squeeze(y_true, -1)
        # An ignored class is no index. Its loss is multiplied by 0 later, so any weight will do.
        last = len(self.class_weights) - 1
        return ops.take(weights, ops.clip(ops.cast(y_true, "int32"), 0, last))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_weights": list(self.class_weights)}


def check_class_weights(
    class_weights: Sequence[float] | Mapping[int, float] | Tensor, num_classes: int
) -> list[float]:
    """Return the weight of each class, from a sequence, an array or a dict by class.

    A pandas Series is a dict by class.

    Raises:
        TypeError: If `class_weights` has another type, or a weight is not a number.
        ValueError: If there is no such class, a sequence has another length, or a weight is
            negative or not finite, or all are 0.
    """
    if hasattr(class_weights, "to_dict"):
        class_weights = class_weights.to_dict()
    if isinstance(class_weights, Mapping):
        _check_classes(class_weights, num_classes)
        given = [class_weights.get(index, 1.0) for index in range(num_classes)]
    else:
        given = _in_order(class_weights, num_classes)
    weights = [check_not_negative(x, f"class_weights[{index}]") for index, x in enumerate(given)]
    if not any(weights):
        raise ValueError(
            f"class_weights must not all be 0. Received: class_weights={class_weights!r}"
        )
    return weights


def _in_order(class_weights: Any, num_classes: int) -> list[Any]:
    """Return the entries of a sequence or an array with an entry for each class."""
    if hasattr(class_weights, "__array__"):
        class_weights = to_numpy(class_weights)
        shape, received = class_weights.shape, f".shape={class_weights.shape}"
    elif isinstance(class_weights, Sequence) and not isinstance(class_weights, str | bytes):
        shape, received = (len(class_weights),), f"={class_weights!r}"
    else:
        raise TypeError(
            "class_weights must be a sequence of numbers or a dict by class. "
            f"Received: class_weights={class_weights!r}"
        )
    if shape != (num_classes,):
        raise ValueError(
            f"class_weights must have a weight for each of the {num_classes} classes, or be a "
            f"dict by class. Received: class_weights{received}"
        )
    return list(class_weights)


def _check_classes(classes: Iterable[Any], num_classes: int) -> None:
    for index in classes:
        if isinstance(index, bool | float) or index not in range(num_classes):
            raise ValueError(
                f"class_weights as a dict must have classes from 0 to {num_classes - 1} as keys. "
                f"Received: class_weights={{{index!r}: ...}}"
            )


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
