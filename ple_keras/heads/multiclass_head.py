"""The head of a multiclass task."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ple_keras._checks import check_int, refuse_fixed
from ple_keras._keras.registration import register
from ple_keras._typing import LayerLike, LossLike, MetricLike, Tensor
from ple_keras.heads.head import Head, refuse_masked, without_keys
from ple_keras.labels.label_arrays import check_class_indices, check_probabilities
from ple_keras.losses.class_weight_loss import ClassWeightLoss, check_class_weights
from ple_keras.metrics.loss_mean import LossMean


@register
class MulticlassHead(Head):
    """The probability of each class: `softmax`, `(..., H) -> (..., num_classes)`.

    The labels are class indices. The loss is sparse categorical cross-entropy. The metrics are
    `accuracy` and the mean of the loss, `sparse_categorical_crossentropy`
    (`weighted_sparse_categorical_crossentropy` with `class_weights`).

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, see `Head`.
        num_classes: The number of classes, at least 2.
        loss: A loss of probabilities that replaces sparse categorical cross-entropy.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        class_weights: The factor of the loss of an example, by the class of its label: a sequence
            or array of `num_classes` numbers of at least 0, or a dict by class. Classes that a dict
            omits have the weight 1. A pandas Series is a dict by class. For labels that are
            probabilities `y_c`, the factor is the sum of `y_c w_c`. The loss is still divided by
            the number of labelled examples. The predictions are then calibrated for the weighted
            data.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics`, see `Head`, and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The probability of each class, `(..., num_classes)`, at least float32.

    Raises:
        TypeError, ValueError: See `Head`; also if `num_classes` is not an integer above 1, or
            `class_weights` have another length, an unknown class, or a weight that is negative or
            not finite, or are all 0.

    Example:

    >>> tuple(MulticlassHead("category", num_classes=12)(keras.ops.ones((8, 32))).shape)
    (8, 12)
    >>> weighted = MulticlassHead("category", num_classes=3, class_weights={2: 5.0})
    >>> weighted.class_weights
    [1.0, 1.0, 5.0]
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        num_classes: int,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_classes = check_int(num_classes, "num_classes", minimum=2)
        refuse_fixed(kwargs, "units", "num_classes")
        refuse_fixed(kwargs, "activation", "softmax")
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy()
        self.class_weights = None
        if class_weights is not None:
            self.class_weights = check_class_weights(class_weights, self.num_classes)
            refuse_masked(loss)
            loss = ClassWeightLoss(loss, self.class_weights)
        if metrics is None:
            metrics = ["accuracy", LossMean(loss)]
        super().__init__(task, num_classes, "softmax", loss, metrics, tower, **kwargs)

    def _check_values(self, labels: Tensor) -> None:
        if labels.shape[-1] == self.num_classes:  # a probability for each class
            check_probabilities(labels, self.task)
        else:
            check_class_indices(labels, self.task, self.num_classes)

    def _label_width(self, loss: LossLike) -> int | None:
        return super()._label_width(loss.loss if isinstance(loss, ClassWeightLoss) else loss)

    def get_config(self) -> dict[str, Any]:
        config = without_keys(super().get_config(), "units", "activation")
        if self.class_weights:
            config["loss"] = keras.saving.serialize_keras_object(self.loss.loss)
        weights = self.class_weights and list(self.class_weights)
        return {**config, "num_classes": self.num_classes, "class_weights": weights}
