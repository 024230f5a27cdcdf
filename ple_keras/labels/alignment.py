"""Shapes and dtypes of labels beside those of predictions."""

from typing import Any

import keras
from keras import ops

from ple_keras._typing import Tensor


def align(
    y_true: Tensor, y_pred: Tensor, label_width: int | None = None, where: str = ""
) -> tuple[Any, Any]:
    """Labels and predictions as tensors whose last axis is that of one example.

    Predictions `(N,)` become `(N, 1)`, and labels `(...)` become `(..., 1)` where the prediction
    is `(..., 1)`: whatever is computed of the last axis has then one value an example.

    Raises:
        TypeError: if the labels are no numbers.
        ValueError: if their shape can't be that of the prediction's labels.
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
    """The name of the labels' dtype; refused if they are neither real numbers nor bools."""
    try:
        dtype = str(keras.backend.standardize_dtype(labels.dtype))
    except ValueError:
        dtype = str(labels.dtype)
    if not dtype.startswith(("bool", "int", "uint", "float", "bfloat")):
        raise TypeError(f"{argument}{where} must hold numbers. Received: {argument}.dtype={dtype}")
    return dtype


def check_shape(
    shape: tuple[int | None, ...],
    prediction: tuple[int | None, ...],
    label_width: int | None,
    argument: str,
    where: str = "",
) -> None:
    """Refuse labels whose shape doesn't go with the prediction's `(..., units)`.

    Args:
        shape: The labels'; None is an unknown length.
        prediction: The prediction's.
        label_width: The length of a label's last axis, which may be left out where it is 1; None
            where a label may be one number or as many as the prediction has.
        argument: The labels' name in messages.
        where: What tells them from other labels of that name.
    """
    *leading, units = prediction
    widths = (1, units) if label_width is None else (label_width,)
    allowed = [(*leading, width) for width in dict.fromkeys(widths)]
    if 1 in widths:
        allowed.append(tuple(leading))
    if not any(agree(shape, one) for one in allowed):
        shapes = " or ".join(map(_readable, allowed))
        raise ValueError(
            f"{argument}{where} must have a shape {shapes} for predictions "
            f"{_readable(prediction)}. Received: {argument}.shape={shape}"
        )


def agree(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Whether two shapes can be the same; None is an unknown length."""
    return len(shape) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(shape, other)
    )


def _readable(shape: tuple[int | None, ...]) -> str:
    axes = ["batch" if i == 0 and n is None else str(n) for i, n in enumerate(shape)]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
