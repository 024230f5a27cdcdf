"""A loss over labeled examples, for `Model.compile`."""

import math

import keras
from keras import ops

from ple_keras._keras.internals import serialize_loss
from ple_keras._keras.names import stable_name
from ple_keras._keras.processes import replica_count
from ple_keras._keras.saving import register
from ple_keras._typing import Config, LossLike, LossReduction, Tensor
from ple_keras.labels.sample_space import (
    all_missing_labels,
    check_missing_label,
    find_labeled,
    to_config,
)
from ple_keras.losses.example_losses import (
    check_loss,
    check_reduction,
    example_losses,
    reduce_losses,
)


@register
class MaskedLoss(keras.Loss):
    """A wrapper that computes any loss only over labeled examples, for a plain `keras.Model`.

        L = sum_i d_i w_i loss_i / sum_i d_i

    d_i is 1 if example i has a label, else 0, and w_i is its sample weight. This is the mean over
    the task's sample space. Keras treats masks in the same way. If no example of the batch is
    labeled, or the batch is empty, the loss and its gradient are 0. If every example is labeled,
    this equals `loss`. The losses of TaskHeads are computed in the same way, without this class.

    With rare labels, the share of batches with a label determines a task's weight. Use large
    batches, or `reduction="sum_over_batch_size"`, which divides by the batch size. Its average
    gradient does not depend on the batch size, but decreases with the share of labels, which the
    task's loss weight can compensate. With many labels in each batch, keep the default.

    With m labeled examples of B, `reduction="label_root"` divides by the square root of m B:

        L = sum_i d_i w_i loss_i / sqrt(m B)

    This is the mean over the labeled examples, times the square root of their share. The noise of
    its gradient does not depend on the share, so a task with few labels does not disturb shared
    layers more than other tasks do.

    If a label has several numbers, and the loss is the mean of their losses, such as a squared
    error or binary cross-entropy, each number can be missing. The loss is then the mean over all
    labeled numbers of the batch. For Keras's other losses, such as categorical cross-entropy, and
    for custom losses, a label is missing if any of its numbers is.

    With `reduction="by_target"`, every number k of a label has the same weight, even if few
    examples have it:

        L = 1/K sum_k sum_i d_ik w_i loss_ik / sum_i d_ik

    A number without a label in the batch adds 0, and K counts it.

    Features must be finite even in examples without a label, whose gradient is 0 times the
    network's derivative: 0 times NaN makes every weight NaN.

    If several processes average their gradients (DistributedDataParallel), each takes the mean over
    its own labeled examples. With "sum_over_batch_size", the average equals one process's loss.

    Args:
        loss: A name, a function or a `keras.losses.Loss`, with a value for each example.
        missing_label: The value of a missing label, in addition to NaN. The `ignore_class` of a
            loss also counts as missing.
        reduction: None, "sum_over_batch_size" to divide by the number of all examples in the
            batch, "label_root", or "by_target".
        label_width: The length of a label's last axis. An axis of length 1 can be omitted. If
            None, a label has one number, or as many as the prediction.
        name: The loss's name; by default the name of `loss`.

    Call arguments:
        y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`, of any real dtype.
        y_pred: Predictions, `(..., units)`.
        sample_weight: Weights of the examples, `(batch,)` or `(...)`.

    Returns:
        A scalar.

    Raises:
        TypeError: If an argument has a type that is not listed above, or labels are not numbers.
        ValueError: If `loss` or `reduction` is unknown, the reduction of `loss` is not a mean, or
            "by_target" is used with a loss that is not the mean of the losses of numbers.
            In a call, if the shape of the labels or of the sample weights does not match the
            predictions, or `loss` does not return a value for each example.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equations 8 and 9.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> loss = MaskedLoss("mean_squared_error")
    >>> float(loss([[1.0], [float("nan")], [3.0]], [[2.0], [5.0], [5.0]]))
    2.5
    """

    def __init__(
        self,
        loss: LossLike,
        missing_label: float = math.nan,
        reduction: LossReduction | None = None,
        label_width: int | None = None,
        name: str | None = None,
    ) -> None:
        self.loss = check_loss(loss)
        self.missing_label = check_missing_label(missing_label)
        self.reduction_of_labels = check_reduction(reduction, self.loss)
        self.label_width = label_width
        super().__init__(name or stable_name(self.loss), dtype=getattr(self.loss, "dtype", None))

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        where = f" of {self.name!r}"
        missing_labels = all_missing_labels(self.missing_label, self.loss)
        labeled = find_labeled(y_true, y_pred, missing_labels, self.label_width, where)
        losses = self.call(labeled.labels, labeled.predictions)
        value = reduce_losses(losses, labeled, sample_weight, self.reduction_of_labels, where).value
        return value / replica_count()  # Keras's own losses do the same

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = (ops.cast(y, self.dtype) for y in (y_true, y_pred))
        return example_losses(self.loss, y_true, y_pred)

    def get_config(self) -> Config:
        return {
            "loss": serialize_loss(self.loss),
            "missing_label": to_config(self.missing_label),
            "reduction": self.reduction_of_labels,
            "label_width": self.label_width,
            "name": self.name,
        }
