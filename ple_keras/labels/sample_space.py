"""The sample space of a task: the examples that have a label."""

from typing import Any

import keras
from keras import ops

from ple_keras._keras.internals import mask_of
from ple_keras._typing import DType, Tensor
from ple_keras.labels.alignment import align
from ple_keras.labels.missing_label import holds

# A label and a prediction that every loss and metric takes, without infinities: class 1, a yes, a
# number whose logarithm is 0. What comes of them is multiplied by 0.
SAFE_LABEL = 1
SAFE_PREDICTION = 0.5


def sample_space(
    y_true: Tensor,
    y_pred: Tensor,
    missing_label: float,
    label_width: int | None = None,
    where: str = "",
) -> tuple[Any, Any, Any]:
    """Labels and predictions, harmless where the label is missing, and where it isn't.

    Returns:
        The labels and predictions as `align` has them, and a tensor of bools `(...)`, True in the
        sample space, which is None if all examples lie in it. A mask of Keras's on the
        predictions counts too.
    """
    mask = mask_of(y_pred)
    y_true, y_pred = align(y_true, y_pred, label_width, where)
    in_space = _labelled(y_true, y_pred, missing_label)
    if mask is not None:
        in_space = mask if in_space is None else ops.logical_and(in_space, mask)
    return *_replace_missing(y_true, y_pred, in_space), in_space


def _labelled(y_true: Tensor, y_pred: Tensor, missing_label: float) -> Tensor | None:
    """True where an example has a label: `(...)`, from labels and predictions as `align` has them.

    A label of several numbers is missing if one of them is.

    Returns:
        A tensor of bools; None if the labels' dtype can't hold a missing one.
    """
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    missing = ops.isnan(y_true) if "float" in dtype else None
    if holds(dtype, missing_label):
        if dtype == "bool":
            y_true = ops.cast(y_true, "int32")
        equal = ops.equal(y_true, ops.cast(missing_label, y_true.dtype))
        missing = equal if missing is None else ops.logical_or(missing, equal)
    if missing is None:
        return None
    if len(y_true.shape) == len(y_pred.shape):
        missing = ops.any(missing, axis=-1)
    return ops.logical_not(missing)


def _replace_missing(y_true: Tensor, y_pred: Tensor, in_space: Tensor | None) -> tuple[Any, Any]:
    """Harmless labels and predictions where the label is missing.

    A loss may be NaN or infinite there, for the network is not trained there; multiplied by 0 it
    would be NaN, and so would its gradient.
    """
    if in_space is None:
        return y_true, y_pred
    each = ops.expand_dims(in_space, -1)
    of_label = each if len(y_true.shape) == len(y_pred.shape) else in_space
    y_true = ops.where(of_label, y_true, ops.cast(SAFE_LABEL, y_true.dtype))
    return y_true, ops.where(each, y_pred, ops.cast(SAFE_PREDICTION, y_pred.dtype))


def example_weights(
    sample_weight: Tensor | None, in_space: Tensor | None, rank: int, dtype: DType
) -> Tensor | None:
    """The weight of each example, 0 where it has no label; None if all are 1.

    Args:
        sample_weight: `(batch,)`, `(...)`, `(..., 1)` or None.
        in_space: As `sample_space` has it.
        rank: The number of axes of an example's value, one less than the prediction's.
        dtype: The weights' dtype.
    """
    if sample_weight is not None:
        sample_weight = ops.cast(ops.convert_to_tensor(sample_weight), dtype)
        if len(sample_weight.shape) == rank + 1 and sample_weight.shape[-1] == 1:
            sample_weight = ops.squeeze(sample_weight, -1)
        while len(sample_weight.shape) < rank:
            sample_weight = ops.expand_dims(sample_weight, -1)
    if in_space is None:
        return sample_weight
    if sample_weight is None:
        return ops.cast(in_space, dtype)
    return ops.where(in_space, sample_weight, ops.zeros((), dtype))
