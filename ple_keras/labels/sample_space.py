"""The sample space of a task: its labelled examples, and the value of a missing label."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.internals import mask_of
from ple_keras._keras.tensors import TensorTable
from ple_keras._typing import DType, Tensor
from ple_keras.labels.alignment import align, format_shape, shapes_match, to_number_tensor

# A label and a prediction for which every loss and metric is finite: class 1, a positive label, a
# number whose logarithm is 0. Their loss is multiplied by 0.
SAFE_LABEL = 1
SAFE_PREDICTION = 0.5

_trained = TensorTable()  # the sample spaces of predictions that a loss trains, on PyTorch


def check_missing_label(value: float | None) -> float:
    """Return the value of a missing label, in addition to NaN; None means NaN only."""
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise TypeError(f"missing_label must be a number. Received: missing_label={value!r}")
    if not isinstance(value, int | np.integer):
        return float(value)
    if not -(2**31) <= value < 2**31:
        raise ValueError(
            "missing_label must fit into 32 bits if it is an integer, because JAX keeps 32 bits of "
            f"a label. Received: missing_label={value!r}"
        )
    return int(value)


def to_config(missing_label: float) -> float | None:
    """Return the config value: JSON has no NaN, and NaN is not equal to itself."""
    return None if math.isnan(missing_label) else missing_label


def can_represent(dtype: str, value: float) -> bool:
    """Return whether labels of the dtype can equal the value; uint8 labels can't equal -1."""
    if math.isnan(value):
        return False
    if dtype == "float16":  # Keras casts labels to float32, where a rounded value is not equal
        return float(np.float16(value)) == value
    if "float" in dtype:
        return True
    if not math.isfinite(value) or value != int(value):
        return False
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(low <= value <= high)


def sample_space(
    y_true: Tensor,
    y_pred: Tensor,
    missing_label: float,
    label_width: int | None = None,
    where: str = "",
    by_element: bool = False,
) -> tuple[Any, Any, Any]:
    """Return labels and predictions that are safe outside the sample space, and the space.

    Args:
        y_true: Labels.
        y_pred: Predictions.
        missing_label: The value of a missing label, in addition to NaN.
        label_width: As for `align`.
        where: As for `align`.
        by_element: Whether single numbers of a label may be missing.

    Returns:
        The labels and predictions from `align`, and a tensor of bools `(...)`, or `(..., units)` by
        element, True in the sample space. It is None if all examples are in the space. A Keras mask
        on the predictions also excludes examples.
    """
    mask = mask_of(y_pred)
    y_true, y_pred = align(y_true, y_pred, label_width, where)
    in_space = _has_label(y_true, missing_label)
    if in_space is not None and len(in_space.shape) == len(y_pred.shape):
        if by_element and have_elements(y_true, y_pred):
            mask = mask if mask is None else ops.expand_dims(mask, -1)
        else:
            in_space = ops.all(in_space, axis=-1)
    if mask is not None:
        in_space = mask if in_space is None else ops.logical_and(in_space, mask)
    return *_replace_missing(y_true, y_pred, in_space), in_space


def trained_sample_space(
    y_true: Tensor,
    y_pred: Tensor,
    missing_label: float,
    label_width: int | None,
    where: str,
    by_element: bool,
) -> tuple[Any, Any, Any]:
    """Return the result of `sample_space` for a loss, and keep it for the metrics of the task."""
    labels, predictions, in_space = sample_space(
        y_true, y_pred, missing_label, label_width, where, by_element
    )
    key = _key(y_true, y_pred, missing_label, by_element)
    if key and y_pred.requires_grad:
        _trained[y_pred] = key, labels._version, (labels, ops.stop_gradient(predictions), in_space)
    return labels, predictions, in_space


def measured_sample_space(
    y_true: Tensor, y_pred: Tensor, missing_label: float, where: str, by_element: bool
) -> tuple[Any, Any, Any]:
    """Return the result of `sample_space` for a metric, without gradients.

    On PyTorch, it is that of the loss if it had the same tensors. To compute it for each metric
    takes 3 % of a step. Compilers of the other backends remove what is computed twice.
    """
    known: Any = _trained.get(y_pred)
    key = known and _key(y_true, y_pred, missing_label, by_element)
    if key and _are_same(known[0], key):
        found: tuple[Any, Any, Any] = known[2]
        if found[0]._version == known[1]:  # no metric has changed the labels in place
            return found
    y_true, y_pred, in_space = sample_space(
        y_true, y_pred, missing_label, where=where, by_element=by_element
    )
    return y_true, ops.stop_gradient(y_pred), in_space


def _key(
    y_true: Tensor, y_pred: Tensor, missing_label: float, by_element: bool
) -> tuple[Any, ...] | None:
    """Return what a sample space depends on; None if PyTorch does not count changes of a tensor."""
    if keras.backend.backend() != "torch":
        return None
    mask = mask_of(y_pred)
    tensors = (y_true, y_pred) if mask is None else (y_true, y_pred, mask)
    if any(not hasattr(x, "is_inference") or x.is_inference() for x in tensors):
        return None
    versions = tuple(x._version for x in tensors)
    return y_true, mask, to_config(missing_label), by_element, versions


def _are_same(key: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Return whether two keys have the same tensors, and equal numbers."""
    return key[0] is other[0] and key[1] is other[1] and key[2:] == other[2:]


def have_elements(y_true: Tensor, y_pred: Tensor) -> bool:
    """Return whether labels and predictions from `align` have several numbers each."""
    is_wide = all(tensor.shape[-1] != 1 for tensor in (y_true, y_pred))
    return is_wide and len(y_true.shape) == len(y_pred.shape)


def _has_label(y_true: Tensor, missing_label: float) -> Tensor | None:
    """Return True where a number of a label is not missing, of the shape of the labels.

    Returns:
        A tensor of bools; None if the dtype can't represent a missing label.
    """
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    missing = ops.isnan(y_true) if "float" in dtype else None
    if can_represent(dtype, missing_label):
        if dtype == "bool":
            y_true = ops.cast(y_true, "int32")
        equal = ops.equal(y_true, ops.cast(missing_label, y_true.dtype))
        missing = equal if missing is None else ops.logical_or(missing, equal)
    return None if missing is None else ops.logical_not(missing)


def _replace_missing(y_true: Tensor, y_pred: Tensor, in_space: Tensor | None) -> tuple[Any, Any]:
    """Replace labels and predictions outside the sample space by safe values.

    The network is not trained there, so a loss can be NaN or infinite. Multiplied by 0, it would be
    NaN, and so would its gradient.
    """
    if in_space is None:
        return y_true, y_pred
    is_by_element = len(in_space.shape) == len(y_pred.shape)
    prediction_mask = in_space if is_by_element else ops.expand_dims(in_space, -1)
    label_mask = prediction_mask if len(y_true.shape) == len(y_pred.shape) else in_space
    y_true = ops.where(label_mask, y_true, ops.cast(SAFE_LABEL, y_true.dtype))
    return y_true, ops.where(prediction_mask, y_pred, ops.cast(SAFE_PREDICTION, y_pred.dtype))


def example_weights(
    sample_weight: Tensor | None,
    in_space: Tensor | None,
    shape: tuple[int | None, ...],
    dtype: DType,
    where: str = "",
) -> Tensor | None:
    """Return the weight of each example, 0 if it has no label; None if all are 1.

    Args:
        sample_weight: `(batch,)`, `(...)`, `(..., 1)` or None.
        in_space: As returned by `sample_space`.
        shape: The shape of the examples' values: that of the predictions without the last axis.
        dtype: The dtype of the weights.
        where: Text after the name in messages, such as " of 'click_loss'".

    Returns:
        A tensor that broadcasts to `(...)`, or to `(..., units)` if `in_space` is by element.

    Raises:
        TypeError: If the weights are not numbers.
        ValueError: If their shape does not match `shape`.
    """
    if sample_weight is not None:
        sample_weight = _align_weights(sample_weight, tuple(shape), where)
        sample_weight = ops.cast(sample_weight, dtype)
    if in_space is None:
        return sample_weight
    if sample_weight is None:
        return ops.cast(in_space, dtype)
    if len(in_space.shape) > len(shape):
        sample_weight = ops.expand_dims(sample_weight, -1)
    return ops.where(in_space, sample_weight, ops.zeros((), dtype))


def _align_weights(sample_weight: Tensor, shape: tuple[int | None, ...], where: str) -> Any:
    """Return weights with as many axes as `shape`."""
    given = weights = to_number_tensor(sample_weight, "sample_weight", where)
    if len(weights.shape) == len(shape) + 1 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    while len(weights.shape) < len(shape):
        weights = ops.expand_dims(weights, -1)
    allowed = tuple(1 if size == 1 else other for size, other in zip(weights.shape, shape))
    if len(weights.shape) > len(shape) or not shapes_match(tuple(weights.shape), allowed):
        shapes = " or ".join(map(format_shape, dict.fromkeys([shape[:1], shape, (*shape, 1)])))
        raise ValueError(
            f"sample_weight{where} must have a shape {shapes}. "
            f"Received: sample_weight.shape={tuple(given.shape)}"
        )
    return weights
