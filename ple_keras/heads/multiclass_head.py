"""The head of the probabilities of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_int, check_number, short_repr
from ple_keras._keras.saving import register
from ple_keras._typing import Config, LayerLike, LossLike, MetricLike, Tensor
from ple_keras.families.family import Multiclass
from ple_keras.heads.head import Head


@register
class MulticlassHead(Head):
    """The probability of each class: `softmax`, `(..., H) -> (..., num_classes)`.

    The labels are class indices. The loss is sparse categorical cross-entropy. The metrics are
    `accuracy` and the mean of the loss, `sparse_categorical_crossentropy`
    (`weighted_sparse_categorical_crossentropy` with `class_weight`).

    Args:
        task: The task's name (see `TaskHeads`).
        tower: The task's own network (see `Head`).
        num_classes: The number of classes, at least 2.
        loss: A loss of probabilities that replaces sparse categorical cross-entropy.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        class_weight: The factors of the losses of examples of each class: a sequence or array of
            `num_classes` numbers of at least 0, or a dict or pandas Series keyed by class, where an
            omitted class has the weight 1. For labels that are probabilities `y_c`, the factor is
            the sum of `y_c w_c`. The loss is still divided by the number of labeled examples. The
            predictions are then calibrated for the weighted data.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The probability of each class, `(..., num_classes)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`, and if `num_classes` is not an integer above 1, or
            `class_weight` has a wrong length, an unknown class, or a weight that is negative or
            not finite.

    Example:

    >>> tuple(MulticlassHead("category", num_classes=12)(keras.ops.ones((8, 32))).shape)
    (8, 12)
    >>> weighted = MulticlassHead("category", num_classes=3, class_weight={2: 5.0})
    >>> weighted.class_weight
    [1.0, 1.0, 5.0]
    """

    _own_family = Multiclass()
    _fixed = (*Head._fixed, "num_classes")
    _set_by_class = ("units", "activation")

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        num_classes: int,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        class_weight: Sequence[float] | Mapping[int, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_classes = check_int(num_classes, "num_classes", minimum=2)
        if class_weight is not None:
            class_weight = _check_class_weight(class_weight, self.num_classes)
        self.class_weight = class_weight
        loss = keras.losses.SparseCategoricalCrossentropy() if loss is None else loss
        super().__init__(task, num_classes, "softmax", loss, metrics, tower, **kwargs)

    def _loss_name(self) -> str:
        name = super()._loss_name()
        return name if self.class_weight is None else f"weighted_{name}"

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        losses = super().example_losses(y_true, y_pred)
        if self.class_weight is None:
            return losses
        weights = ops.convert_to_tensor(self.class_weight, losses.dtype)
        if len(y_true.shape) == len(y_pred.shape):
            if y_true.shape[-1] != 1:  # a probability for each class
                return losses * ops.matmul(y_true, weights)
            y_true = ops.squeeze(y_true, -1)
        return losses * ops.take(weights, ops.cast(y_true, "int32"))

    def _default_metrics(self) -> list[MetricLike]:
        return ["accuracy"]

    def get_config(self) -> Config:
        return {**super().get_config(), "class_weight": self.class_weight}


def _check_class_weight(class_weight: Any, num_classes: int) -> list[float]:
    """Return the weight of each class, from a sequence, an array, a dict or a pandas Series."""
    classes = range(num_classes)
    weights = class_weight.to_dict() if hasattr(class_weight, "to_dict") else class_weight
    if isinstance(weights, Mapping) and set(weights) <= set(classes):
        weights = [weights.get(index, 1.0) for index in classes]
    if np.shape(weights) != (num_classes,):
        raise ValueError(
            f"class_weight must have {num_classes} weights, or be a dict with keys from 0 to "
            f"{num_classes - 1}. Received: class_weight={short_repr(class_weight)}"
        )
    return [check_number(weights[i], f"class_weight[{i}]", minimum=0) for i in classes]
