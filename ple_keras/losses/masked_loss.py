"""A loss over labelled examples."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_int
from ple_keras._keras.internals import mask_of, set_mask
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._keras.tensors import TensorTable
from ple_keras._typing import DType, LossLike, LossReduction, Tensor
from ple_keras.labels.label_arrays import masks_elements
from ple_keras.labels.sample_space import (
    check_missing_label,
    example_weights,
    have_elements,
    to_config,
    trained_sample_space,
)
from ple_keras.losses.list_loss import ListLoss

SUM_OVER_BATCH_SIZE = "sum_over_batch_size"
LABEL_ROOT: LossReduction = "label_root"

_branches = TensorTable()  # the predictions of the branches that a prediction mixes


def branches_of(prediction: Tensor) -> Any:
    """Return the predictions of the branches that a prediction mixes; None if it has no mark."""
    return _branches.get(prediction)


def mark_branches(prediction: Tensor, branches: Sequence[Tensor]) -> None:
    """Mark a prediction as the mixture of those of its branches, which losses train instead."""
    _branches[prediction] = branches


@register
class MaskedLoss(keras.Loss):
    """A wrapper that computes any loss over labelled examples only.

        L = sum_i d_i w_i loss_i / sum_i d_i

    d_i is 1 if example i has a label, else 0, and w_i is its sample weight. This is the mean over
    the task's sample space. Keras treats masks in the same way. If no example of the batch is
    labelled, or the batch is empty, the loss and its gradient are 0. If every example is labelled,
    this equals `loss`.

    With rare labels, the share of batches that have a label determines a task's weight. Use large
    batches, or `reduction="sum_over_batch_size"`, which divides by the batch size. Its average
    gradient is independent of the batch size, but decreases with the share of labels. Compensate
    for this with the task's loss weight. With many labels in each batch, keep the default.

    With m labelled examples of B, `reduction="label_root"` divides by the square root of m B:

        L = sum_i d_i w_i loss_i / sqrt(m B)

    This is the mean over the labelled examples, times the square root of their share. The noise of
    its gradient does not depend on the share, so that a task with few labels does not disturb the
    layers that it shares with others more than they do.

    If a label has several numbers, and the loss is the mean of their losses, such as a squared
    error or binary cross-entropy, then each number may be missing. It counts as an example: the
    loss is the mean over all labelled numbers of the batch. For other losses of Keras, such as
    categorical cross-entropy, and for custom losses, a label is missing if any of its numbers is.

    Features must be finite, including those of examples without a label. The gradient of such an
    example is 0 times the network's derivative, and 0 times NaN is NaN in every weight.

    If several processes average their gradients (DistributedDataParallel), each takes the mean over
    its own labelled examples. With "sum_over_batch_size", the average is that of one process.

    Args:
        loss: A name, a function or a `keras.losses.Loss`, with a value for each example. The
            reduction of a Loss object is kept, over labelled examples.
        missing_label: The value of a missing label, in addition to NaN. The `ignore_class` of a
            loss counts as missing too.
        reduction: None, "sum_over_batch_size" to divide by the number of all examples in the
            batch, or "label_root".
        label_width: The length of a label's last axis. An axis of length 1 may be omitted. If
            None, a label has one number, or as many as the prediction.
        name: The loss's name; by default that of `loss`.

    Call arguments:
        y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`, of any real dtype.
        y_pred: Predictions, `(..., units)`.
        sample_weight: Weights of the examples, `(batch,)` or `(...)`.

    Returns:
        A scalar. If the reduction of `loss` is "none", the loss of each example, `(...)`, which is
        0 without a label.

    Raises:
        TypeError: If an argument has a type that is not listed above, or labels are not numbers.
        ValueError: If `loss` or `reduction` is unknown. In a call, if the shape of the labels or
            of the sample weights does not match the predictions, or `loss` does not return a value
            for each example.

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
        if loss is None:
            raise TypeError("loss must not be None. Received: loss=None")
        self._masks_elements = masks_elements(self.loss)
        self.missing_label = check_missing_label(missing_label)
        self.reduction_of_labels = check_reduction(reduction)
        if label_width is not None:
            label_width = check_int(label_width, "label_width", minimum=1)
        self.label_width = label_width
        loss_reduction = (
            SUM_OVER_BATCH_SIZE if reduction else getattr(loss, "reduction", SUM_OVER_BATCH_SIZE)
        )
        super().__init__(
            name or stable_name(self.loss), loss_reduction, dtype=getattr(self.loss, "dtype", None)
        )

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        branches = self._find_branches(y_pred)
        loss = self._reduced_loss(y_true, y_pred, sample_weight)
        if not branches:
            return loss
        for branch in branches:
            set_mask(branch, mask_of(y_pred))
        of_branch = MaskedLoss(
            self.loss, self.missing_label, LABEL_ROOT, self.label_width, self.name
        )
        trained = reduce(ops.add, [of_branch(y_true, x, sample_weight) for x in branches])
        # The value is the mixture's, the gradient that of the branches.
        return ops.stop_gradient(loss) + (trained - ops.stop_gradient(trained))

    def _find_branches(self, y_pred: Tensor) -> Any:
        """Return the predictions of the branches that `y_pred` mixes; None if it mixes none."""
        return branches_of(y_pred)

    def _reduced_loss(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None) -> Tensor:
        where = f" of {self.name!r}"
        if isinstance(self.loss, ListLoss):
            y_true, y_pred = self.loss.encode(y_true, y_pred, self.missing_label, where)
        y_true, y_pred, in_space = trained_sample_space(
            y_true, y_pred, self.missing_label, self.label_width, where, self._masks_elements
        )
        is_ignored = ignored_class(self.loss, y_true, y_pred)
        if is_ignored is not None:
            is_known = ops.logical_not(is_ignored)
            in_space = is_known if in_space is None else ops.logical_and(in_space, is_known)
        weights = example_weights(sample_weight, in_space, y_pred.shape[:-1], self.dtype, where)
        has_elements = self._has_elements(y_true, y_pred)
        if has_elements and weights is not None and len(weights.shape) < len(y_pred.shape):
            weights = ops.expand_dims(weights, -1) * ops.ones_like(y_pred, dtype=self.dtype)
        if in_space is not None and self._divides_by_labels():
            ratio = _whole_to_space_ratio(in_space, self.dtype)
            is_root = self.reduction_of_labels == LABEL_ROOT
            weights = weights * (ops.sqrt(ratio) if is_root else ratio)
        is_reduced = self.reduction not in (None, "none")
        if has_elements and not is_reduced:
            return self._means_of_elements(y_true, y_pred, weights, in_space)
        loss = super().__call__(y_true, y_pred, weights)
        is_empty = tuple(loss.shape) == (0,)  # as Keras returns it for a batch without rows
        return ops.sum(loss) if is_empty and is_reduced else loss

    def _has_elements(self, y_true: Tensor, y_pred: Tensor) -> bool:
        return self._masks_elements and have_elements(y_true, y_pred)

    def _means_of_elements(
        self, y_true: Tensor, y_pred: Tensor, weights: Tensor | None, in_space: Tensor | None
    ) -> Tensor:
        """Return the mean of the losses of each example's labelled numbers, `(...)`."""
        if in_space is not None and len(in_space.shape) == len(y_pred.shape):
            weights = weights * _whole_to_space_ratio(in_space, self.dtype, axis=-1)
        return ops.mean(super().__call__(y_true, y_pred, weights), axis=-1)

    def _divides_by_labels(self) -> bool:
        is_mean = self.reduction in (SUM_OVER_BATCH_SIZE, "mean")
        return is_mean and self.reduction_of_labels != SUM_OVER_BATCH_SIZE

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return example_losses(self.loss, y_true, y_pred, self._has_elements(y_true, y_pred))

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "missing_label": to_config(self.missing_label),
            "reduction": self.reduction_of_labels,
            "label_width": self.label_width,
            "name": self.name,
        }


def _whole_to_space_ratio(in_space: Tensor, dtype: DType, axis: int | None = None) -> Tensor:
    """Return the number of examples divided by that of labelled examples; 0 if none are.

    With an axis, return the ratios along it.
    """
    size = ops.cast(ops.size(in_space) if axis is None else in_space.shape[axis], dtype)
    labelled = ops.sum(ops.cast(in_space, dtype), axis, keepdims=axis is not None)
    return ops.divide_no_nan(size, labelled)


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


def check_reduction(reduction: LossReduction | None) -> LossReduction | None:
    """Return `reduction`; check that it is one of the labels'."""
    if reduction not in (None, SUM_OVER_BATCH_SIZE, LABEL_ROOT):
        raise ValueError(
            "reduction must be None, for the mean over labelled examples, "
            f"{SUM_OVER_BATCH_SIZE!r} or {LABEL_ROOT!r}. Set any other on the loss itself, such as "
            f'keras.losses.Huber(reduction="sum"). Received: reduction={reduction!r}'
        )
    return reduction


def example_losses(
    loss: LossLike, y_true: Tensor, y_pred: Tensor, by_element: bool = False
) -> Tensor:
    """Return the loss of each example, `(...)`, from labels and predictions `(..., units)`.

    By element, return the loss of each number, `(..., units)`.

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
    if by_element:
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


def ignored_class(loss: LossLike, y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return a mask of labels equal to `loss.ignore_class`, `(...)`; None if there is none."""
    ignored = getattr(loss, "ignore_class", None)
    if ignored is None:
        return None
    is_ignored = ops.equal(y_true, ops.cast(ignored, y_true.dtype))
    return ops.squeeze(is_ignored, -1) if len(y_true.shape) == len(y_pred.shape) else is_ignored
