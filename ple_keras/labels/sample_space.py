"""Labels and predictions of a batch: their alignment, and the task's sample space."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ple_keras._checks import short_repr
from ple_keras._keras.internals import get_mask
from ple_keras._keras.tensors import (
    dtype_name,
    fill,
    fill_finite,
    fill_nan,
    is_number,
    to_numpy,
)
from ple_keras._typing import Shape, Streams, Tensor

# A label and a prediction for which every loss and metric is finite: class 1, a positive label, a
# number whose logarithm is 0. Where labels are missing, the network is not trained, and the loss of
# its own predictions can be infinite. Multiplied by 0, the loss and its gradient would be NaN.
SAFE_LABEL = 1
SAFE_PREDICTION = 0.5


def check_missing_label(value: float | None) -> float:
    """Return the value of a missing label, in addition to NaN; None means only NaN."""
    value = math.nan if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"missing_label must be a number. Received: missing_label={value!r}")
    return value.item() if isinstance(value, np.number) else value


def to_config(missing_label: float) -> float | None:
    """Return the config value: JSON has no NaN, and NaN is not equal to itself."""
    return None if math.isnan(missing_label) else missing_label


def all_missing_labels(missing_label: float, loss: object) -> list[float]:
    """Return the values of a missing label: `missing_label`, and the `ignore_class` of a loss."""
    ignored = getattr(loss, "ignore_class", None)
    return [missing_label] if ignored is None else [missing_label, ignored]


def can_represent(dtype: str, value: float) -> bool:
    """Return whether labels of the dtype can equal the value; uint8 labels can't equal -1."""
    if "int" not in dtype:
        return "float" in dtype and not math.isnan(value)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return float(value).is_integer() and bool(low <= value <= high)


class LabeledExamples(NamedTuple):
    """Labels and predictions of a task's batch, with safe values outside of the sample space.

    Attributes:
        labels: `(...)`, `(..., 1)` or `(..., units)`; for lists, a dict of labels and a mask.
        predictions: `(..., units)`.
        missing: True for each example without a label, `(..., 1)`, or for each missing number if
            labels and predictions have several, `(..., units)`; None if all are labeled.
    """

    labels: Streams
    predictions: Tensor
    missing: Tensor | None = None


def find_labeled(
    y_true: Tensor,
    y_pred: Tensor,
    missing_labels: Sequence[float],
    label_width: int | None = None,
    where: str = "",
    are_finite: bool = False,
) -> LabeledExamples:
    """Return the labels and predictions of a batch, and which of them are in the sample space.

    Args:
        y_true: Labels.
        y_pred: Predictions. Their Keras mask also excludes examples.
        missing_labels: The values of a missing label, in addition to NaN.
        label_width: As for `align`.
        where: As for `align`.
        are_finite: Whether predictions are finite.

    Raises:
        TypeError, ValueError: As for `align`.
    """
    mask = get_mask(y_pred)
    y_true, y_pred = align(y_true, y_pred, label_width, where)
    is_double = dtype_name(y_true) == "float64"  # the other labels were float32
    missing = is_missing(ops.cast(y_true, "float32") if is_double else y_true, missing_labels)
    if missing is None and mask is None:
        return LabeledExamples(y_true, y_pred)
    missing = ops.zeros_like(y_true, dtype="bool") if missing is None else missing
    has_last_axis = len(y_true.shape) == len(y_pred.shape)
    missing = missing if has_last_axis else ops.expand_dims(missing, -1)
    if mask is not None:
        missing = missing | ops.expand_dims(ops.logical_not(mask), -1)
    has_wide_labels = missing.shape[-1] != 1 and y_pred.shape[-1] == 1
    if has_wide_labels:
        missing = ops.any(missing, axis=-1, keepdims=True)
    if mask is None and not has_wide_labels and all(map(math.isnan, missing_labels)):
        y_true = fill_nan(y_true, SAFE_LABEL)
    else:
        y_true = fill(y_true, missing if has_last_axis else ops.squeeze(missing, -1), SAFE_LABEL)
    return LabeledExamples(y_true, fill_predictions(y_pred, missing, are_finite), missing)


def fill_predictions(y_pred: Tensor, missing: Tensor, are_finite: bool) -> Tensor:
    """Return predictions with SAFE_PREDICTION where a label is missing."""
    has_columns = missing.shape[-1] != 1
    replace = fill_finite if are_finite and has_columns else fill
    return replace(y_pred, missing, SAFE_PREDICTION)


def is_missing(labels: Tensor, missing_labels: Sequence[float]) -> Tensor:
    """Return True where a number is NaN or a missing label, with operators of any array or tensor.

    Returns:
        A mask in the shape of the labels; None if the dtype can't represent a missing label.
    """
    dtype = dtype_name(labels)
    missing = [labels != labels] if "float" in dtype else []  # NaN
    for value in missing_labels:
        if can_represent(dtype, value):
            missing.append(labels == (int(value) if "int" in dtype else value))
    return reduce(operator.or_, missing) if missing else None


def align_weights(sample_weight: Tensor, shape: Shape, where: str = "") -> Tensor:
    """Return sample weights with as many axes as `shape`, the shape of the examples.

    Args:
        sample_weight: `(batch,)`, `(...)` or `(..., 1)`.
        shape: The shape of the predictions without the last axis.
        where: Text after the name in messages, such as " of 'click'".

    Raises:
        TypeError: If the weights are not numbers.
        ValueError: If their shape does not match.
    """
    weights = to_number_tensor(sample_weight, "sample_weight", where)
    received = tuple(weights.shape)
    if len(weights.shape) == len(shape) + 1 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    while len(weights.shape) < len(shape):
        weights = ops.expand_dims(weights, -1)
    allowed = tuple(1 if size == 1 else other for size, other in zip(weights.shape, shape))
    if len(weights.shape) > len(shape) or not shapes_match(tuple(weights.shape), allowed):
        shapes = " or ".join(map(format_shape, dict.fromkeys([shape[:1], shape, (*shape, 1)])))
        raise ValueError(
            f"sample_weight{where} must have a shape {shapes}. Received: shape={received}"
        )
    return weights


def align(
    y_true: Tensor, y_pred: Tensor, label_width: int | None = None, where: str = ""
) -> tuple[Tensor, Tensor]:
    """Return labels and predictions as tensors whose last axis belongs to one example.

    Predictions `(N,)` become `(N, 1)`. Labels `(...)` become `(..., 1)` if predictions are
    `(..., 1)`. A reduction over the last axis then returns one value for each example.

    Raises:
        TypeError: If the labels or predictions are not numbers.
        ValueError: If the shape of the labels does not match the predictions.
    """
    y_true = to_number_tensor(y_true, "y_true", where)
    y_pred = to_number_tensor(y_pred, "y_pred", where)
    if len(y_pred.shape) == 1:
        y_pred = ops.expand_dims(y_pred, -1)
        y_true = ops.expand_dims(y_true, -1) if len(y_true.shape) == 1 else y_true
    check_shape(tuple(y_true.shape), tuple(y_pred.shape), label_width, "y_true", where)
    if len(y_true.shape) < len(y_pred.shape) and y_pred.shape[-1] == 1:
        y_true = ops.expand_dims(y_true, -1)
    return y_true, y_pred


def _to_numbers(
    convert: Callable[[Tensor], Tensor], value: Tensor, argument: str, where: str = ""
) -> Tensor:
    """Return a tensor or an array, which must contain real numbers or bools."""
    try:
        converted = convert(value)
    except (TypeError, ValueError) as error:  # lists can have different lengths
        raise TypeError(
            f"{argument}{where} must contain numbers. Received: {argument}={short_repr(value)}"
        ) from error
    check_dtype(converted, argument, where)
    return converted


to_number_tensor = partial(_to_numbers, ops.convert_to_tensor)
to_number_array = partial(_to_numbers, to_numpy)


def is_nullable_number(values: object) -> bool:
    """Return whether values have a nullable dtype of pandas, which Keras can't read."""
    dtype: Any = getattr(values, "dtype", None)
    return hasattr(dtype, "na_value") and getattr(dtype, "kind", "") in "biuf"


def check_dtype(labels: Tensor, argument: str, where: str = "") -> str:
    """Return the dtype name of labels; check that they are real numbers or bools."""
    dtype = dtype_name(labels)
    if not is_number(dtype):
        is_nullable = dtype == "object" or is_nullable_number(labels)
        remedy = " astype('float32') converts them, and None to NaN." if is_nullable else ""
        raise TypeError(
            f"{argument}{where} must contain numbers.{remedy} Received: {argument}.dtype={dtype}"
        )
    return dtype


def check_shape(
    shape: Shape, prediction: Shape, label_width: int | None, argument: str, where: str = ""
) -> None:
    """Check that the shape of labels matches predictions `(..., units)`.

    Args:
        shape: The shape of the labels; None is an unknown length.
        prediction: The shape of the predictions.
        label_width: As for `MaskedLoss`.
        argument: The name of the labels in messages.
        where: Text after the name in messages, such as " of 'click_loss'".
    """
    *leading, units = prediction
    widths = {1: None, units: None} if label_width is None else {label_width: None}
    allowed = [(*leading, width) for width in widths] + [tuple(leading)] * (1 in widths)
    if not any(shapes_match(shape, one) for one in allowed):
        raise ValueError(
            f"{argument}{where} must have a shape {' or '.join(map(format_shape, allowed))} for "
            f"predictions {format_shape(prediction)}. Received: {argument}.shape={shape}"
        )


def shapes_match(shape: Shape, other: Shape) -> bool:
    """Return whether two shapes can be equal; None is an unknown length."""
    return len(shape) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(shape, other)
    )


def format_shape(shape: Shape) -> str:
    """Return a shape as in messages, with "batch" for an unknown first axis."""
    axes = ["batch" if i == 0 and n is None else str(n) for i, n in enumerate(shape)]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
