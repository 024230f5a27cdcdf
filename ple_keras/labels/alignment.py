"""Shapes and dtypes of labels and predictions."""

from typing import Any

import numpy as np
from keras import ops

from ple_keras._checks import short_repr
from ple_keras._keras.tensors import dtype_name, is_number, to_numpy
from ple_keras._typing import Tensor


def align(
    y_true: Tensor, y_pred: Tensor, label_width: int | None = None, where: str = ""
) -> tuple[Any, Any]:
    """Return labels and predictions as tensors whose last axis belongs to one example.

    Predictions `(N,)` become `(N, 1)`. Labels `(...)` become `(..., 1)` if predictions are
    `(..., 1)`. A reduction of the last axis then has one value for each example.

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


def to_number_tensor(value: Tensor, argument: str, where: str = "") -> Any:
    """Return a tensor; check that it holds real numbers or bools."""
    try:
        tensor = ops.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{argument}{where} must hold numbers. Received: {argument}={short_repr(value)}"
        ) from error
    check_dtype(tensor, argument, where)
    return tensor


def to_number_array(value: Tensor, argument: str) -> np.ndarray:
    """Return a NumPy array; check that it holds real numbers or bools."""
    try:
        array = to_numpy(value)
    except ValueError as error:  # lists of different lengths
        raise TypeError(
            f"{argument} must hold numbers. Received: {argument}={short_repr(value)}"
        ) from error
    check_dtype(array, argument)
    return array


def check_dtype(labels: Tensor, argument: str, where: str = "") -> str:
    """Return the name of the labels' dtype; check that it is one of real numbers or bools."""
    dtype = dtype_name(labels)
    if not is_number(dtype):
        is_object = dtype == "object"
        remedy = " astype('float32') converts them, and None to NaN." if is_object else ""
        raise TypeError(
            f"{argument}{where} must hold numbers.{remedy} Received: {argument}.dtype={dtype}"
        )
    return dtype


def check_shape(
    shape: tuple[int | None, ...],
    prediction: tuple[int | None, ...],
    label_width: int | None,
    argument: str,
    where: str = "",
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


def shapes_match(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Return whether two shapes can be equal; None is an unknown length."""
    return len(shape) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(shape, other)
    )


def format_shape(shape: tuple[int | None, ...]) -> str:
    """Return a shape as in messages, with "batch" for an unknown first axis."""
    axes = ["batch" if i == 0 and n is None else str(n) for i, n in enumerate(shape)]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
