"""Shapes and dtypes of labels and predictions."""

from typing import Any

from keras import ops

from ple_keras._keras.dtypes import dtype_name, is_number
from ple_keras._typing import Tensor


def align(
    y_true: Tensor, y_pred: Tensor, label_width: int | None = None, where: str = ""
) -> tuple[Any, Any]:
    """Return labels and predictions as tensors whose last axis belongs to one example.

    Predictions `(N,)` become `(N, 1)`. Labels `(...)` become `(..., 1)` if predictions are
    `(..., 1)`. A reduction of the last axis then has one value for each example.

    Raises:
        TypeError: If the labels are not numbers.
        ValueError: If the shape of the labels does not match the predictions.
    """
    y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
    check_dtype(y_true, "y_true", where)
    if len(y_pred.shape) == 1:
        y_pred = ops.expand_dims(y_pred, -1)
        y_true = ops.expand_dims(y_true, -1) if len(y_true.shape) == 1 else y_true
    check_shape(tuple(y_true.shape), tuple(y_pred.shape), label_width, "y_true", where)
    if len(y_true.shape) < len(y_pred.shape) and y_pred.shape[-1] == 1:
        y_true = ops.expand_dims(y_true, -1)
    return y_true, y_pred


def check_dtype(labels: Tensor, argument: str, where: str = "") -> str:
    """Return the name of the labels' dtype; check that it is one of real numbers or bools."""
    dtype = dtype_name(labels)
    if not is_number(dtype):
        remedy = ""
        if dtype == "object":
            remedy = " Convert them with astype('float32'), which makes None a NaN."
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
    widths = (1, units) if label_width is None else (label_width,)
    allowed = [(*leading, width) for width in dict.fromkeys(widths)]
    if 1 in widths:
        allowed.append(tuple(leading))
    if not any(shapes_match(shape, one) for one in allowed):
        shapes = " or ".join(map(_format_shape, allowed))
        raise ValueError(
            f"{argument}{where} must have a shape {shapes} for predictions "
            f"{_format_shape(prediction)}. Received: {argument}.shape={shape}"
        )


def shapes_match(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Return whether two shapes can be equal; None is an unknown length."""
    return len(shape) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(shape, other)
    )


def _format_shape(shape: tuple[int | None, ...]) -> str:
    axes = ["batch" if i == 0 and n is None else str(n) for i, n in enumerate(shape)]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
