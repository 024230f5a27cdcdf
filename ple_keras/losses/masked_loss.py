"""A loss over the labelled examples."""

import math
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_int
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._typing import DType, LossLike, Tensor
from ple_keras.labels.missing_label import check_missing_label, config_of
from ple_keras.labels.sample_space import example_weights, sample_space
from ple_keras.losses.checks import BY_BATCH, check_loss, check_reduction
from ple_keras.losses.example_losses import example_losses, ignored_class


@register
class MaskedLoss(keras.Loss):
    """Any loss, over the examples that have a label.

    `L = sum_i d_i w_i loss_i / sum_i d_i`, d_i being 1 where example i has a label and w_i its
    sample weight: the mean over the task's sample space (Tang et al., RecSys 2020, equations 8
    and 9), as Keras itself treats a mask. Without any label in the batch it is 0, and so is the
    gradient. With all of them it is what `loss` is.

    Where labels are rare, the mean in the space weighs a task by how often a batch has a label at
    all: take large batches, or `reduction="sum_over_batch_size"`, which divides by the batch. Its
    gradient is the same on average whatever the batch size, but shrinks with the share of labels:
    make up for it with the task's loss weight. With many labels in each batch leave it as it is.

    Features must be finite, those of examples without a label too: such an example's gradient is 0
    times what the network makes of its features, and 0 times NaN is NaN in every weight.

    Where several processes average their gradients (DistributedDataParallel), the mean in the space
    is taken in each of them and then over them; divided by the batch it is that of one process.

    Args:
        loss: A name, a function or a `keras.losses.Loss`, with a value for each example. The
            reduction of a Loss object is kept, over the examples that have a label.
        missing_label: The label of an example that has none, beside NaN. A label of several
            numbers is missing if one of them is. The `ignore_class` of a loss counts as missing
            too.
        reduction: None, or "sum_over_batch_size" to divide by the number of examples in the batch,
            with or without a label.
        label_width: The length of a label's last axis, which may be left out where it is 1. With
            None a label has one number, or as many as the prediction.
        name: The loss's name; by default that of `loss`.

    Call arguments:
        y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`, of any real dtype.
        y_pred: Predictions, `(..., units)`.
        sample_weight: `(batch,)` or `(...)`.

    Raises:
        TypeError: if an argument is of none of the kinds above, or labels are no numbers.
        ValueError: if `loss` or `reduction` is unknown; in a call, if the shape of the labels
            doesn't go with the predictions, or `loss` gives no value for each example.

    Example:

    >>> loss = MaskedLoss("mean_squared_error")
    >>> float(loss([[1.0], [float("nan")], [3.0]], [[2.0], [5.0], [5.0]]))
    2.5
    """

    def __init__(
        self,
        loss: LossLike,
        missing_label: float = math.nan,
        reduction: str | None = None,
        label_width: int | None = None,
        name: str | None = None,
    ) -> None:
        self.loss = check_loss(loss)
        if loss is None:
            raise TypeError("loss must be a loss. Received: loss=None")
        self.missing_label = check_missing_label(missing_label)
        self.divides_by_batch = check_reduction(reduction) == BY_BATCH
        if label_width is not None:
            label_width = check_int(label_width, "label_width", minimum=1)
        self.label_width = label_width
        of_loss = BY_BATCH if self.divides_by_batch else getattr(loss, "reduction", BY_BATCH)
        super().__init__(
            name or stable_name(self.loss), of_loss, dtype=getattr(self.loss, "dtype", None)
        )

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        y_true, y_pred, in_space = sample_space(
            y_true, y_pred, self.missing_label, self.label_width, f" of {self.name!r}"
        )
        is_ignored = ignored_class(self.loss, y_true, y_pred)
        if is_ignored is not None:
            is_known = ops.logical_not(is_ignored)
            in_space = is_known if in_space is None else ops.logical_and(in_space, is_known)
        weights = example_weights(sample_weight, in_space, len(y_pred.shape) - 1, self.dtype)
        if in_space is not None and self._is_mean() and not self.divides_by_batch:
            weights = weights * _batch_over_space(in_space, self.dtype)
        return super().__call__(y_true, y_pred, weights)

    def _is_mean(self) -> bool:
        return self.reduction in (BY_BATCH, "mean")

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return example_losses(self.loss, y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "missing_label": config_of(self.missing_label),
            "reduction": BY_BATCH if self.divides_by_batch else None,
            "label_width": self.label_width,
            "name": self.name,
        }


def _batch_over_space(in_space: Tensor | None, dtype: DType) -> Tensor:
    """The number of examples over that of the labelled ones; 0 if there are none."""
    size = ops.cast(ops.size(in_space), dtype)
    return ops.divide_no_nan(size, ops.sum(ops.cast(in_space, dtype)))
