"""Losses that know missing labels."""

import math
from typing import Any

import keras
from keras import ops
from keras.src.backend import set_keras_mask

from ple_keras._compiling import check_loss, stable_name
from ple_keras._labels import (
    align,
    check_missing_label,
    config_of,
    example_weights,
    sample_space,
)
from ple_keras._registration import register
from ple_keras._validation import check_int, check_number

BY_BATCH = "sum_over_batch_size"


def example_losses(loss: Any, y_true: Any, y_pred: Any) -> Any:
    """The loss of each example, `(...)`, from labels and predictions `(..., units)`.

    Raises:
        ValueError: if `loss` has no value for each of them, without which none can be left out.
    """
    known = keras.losses.get(loss)
    function = known.call if isinstance(known, keras.Loss) else known
    values = ops.convert_to_tensor(function(y_true, y_pred))
    rank = len(y_pred.shape) - 1
    set_keras_mask(values, None)  # of ignored classes, which count as missing
    if len(values.shape) == rank + 1:
        values = ops.mean(values, axis=-1)
    if len(values.shape) != rank:
        raise ValueError(
            "loss must give a value for each example, as the mean over the last axis does, so that "
            "those without a label can be left out; for predictions of shape "
            f"{tuple(y_pred.shape)} it gives {tuple(values.shape)}. Received: loss={loss!r}"
        )
    return values


def ignored_class(loss: Any, y_true: Any, y_pred: Any) -> Any:
    """Where the label is the loss's `ignore_class`, `(...)`; None for a loss without one."""
    ignored = getattr(loss, "ignore_class", None)
    if ignored is None:
        return None
    is_ignored = ops.equal(y_true, ops.cast(ignored, y_true.dtype))
    return ops.squeeze(is_ignored, -1) if len(y_true.shape) == len(y_pred.shape) else is_ignored


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
        loss: Any,
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

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
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

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return example_losses(self.loss, y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "missing_label": config_of(self.missing_label),
            "reduction": BY_BATCH if self.divides_by_batch else None,
            "label_width": self.label_width,
            "name": self.name,
        }


def check_reduction(reduction: Any) -> str | None:
    """None or "sum_over_batch_size"."""
    if reduction not in (None, BY_BATCH):
        raise ValueError(
            f"reduction must be None, for the mean over the labelled examples, or {BY_BATCH!r}; "
            "any other is for the loss itself to have, such as keras.losses.Huber("
            f'reduction="sum"). Received: reduction={reduction!r}'
        )
    return reduction  # type: ignore[no-any-return]


def _batch_over_space(in_space: Any, dtype: Any) -> Any:
    """The number of examples over that of the labelled ones; 0 if there are none."""
    size = ops.cast(ops.size(in_space), dtype)
    return ops.divide_no_nan(size, ops.sum(ops.cast(in_space, dtype)))


@register
class PositiveWeightLoss(keras.Loss):
    """A loss of probabilities that counts an example `pos_weight` times where the label is 1.

    Args:
        loss: The loss of an example.
        pos_weight: A number above 0.
    """

    def __init__(self, loss: Any, pos_weight: float) -> None:
        self.loss = check_loss(loss)
        self.pos_weight = check_number(pos_weight, "pos_weight")
        if self.pos_weight <= 0:
            raise ValueError(f"pos_weight must be above 0. Received: pos_weight={pos_weight!r}")
        reduction = getattr(self.loss, "reduction", BY_BATCH)
        super().__init__(f"weighted_{stable_name(self.loss)}", reduction)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true, y_pred = align(y_true, y_pred)
        weights = 1 + (self.pos_weight - 1) * ops.squeeze(y_true, -1)
        return weights * example_losses(self.loss, y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        loss = keras.saving.serialize_keras_object(self.loss)
        return {"loss": loss, "pos_weight": self.pos_weight}
