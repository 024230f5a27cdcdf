"""Which examples have a label, and which labels can be a prediction's."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend import get_keras_mask  # the only way: JAX's tracers take no attributes

# A label and a prediction that every loss and metric takes, without infinities: class 1, a yes, a
# number whose logarithm is 0. What comes of them is multiplied by 0.
SAFE_LABEL = 1
SAFE_PREDICTION = 0.5


def check_missing_label(value: Any) -> float:
    """The number that stands for "no label" beside NaN; None is NaN alone."""
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise TypeError(f"missing_label must be a number. Received: missing_label={value!r}")
    if not isinstance(value, int | np.integer):
        return float(value)
    if not -(2**31) <= value < 2**31:
        raise ValueError(
            "missing_label as an integer must fit into 32 bits, which is what JAX keeps of a "
            f"label. Received: missing_label={value!r}"
        )
    return int(value)


def config_of(missing_label: float) -> float | None:
    """As a config holds it: JSON has no NaN, and NaN is not equal to itself."""
    return None if math.isnan(missing_label) else missing_label


def sample_space(
    y_true: Any,
    y_pred: Any,
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
    mask = get_keras_mask(y_pred)
    y_true, y_pred = align(y_true, y_pred, label_width, where)
    in_space = _labelled(y_true, y_pred, missing_label)
    if mask is not None:
        in_space = mask if in_space is None else ops.logical_and(in_space, mask)
    return *_replace_missing(y_true, y_pred, in_space), in_space


def align(
    y_true: Any, y_pred: Any, label_width: int | None = None, where: str = ""
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


def check_dtype(labels: Any, argument: str, where: str = "") -> str:
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
    return len(shape) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(shape, other)
    )


def _readable(shape: tuple[int | None, ...]) -> str:
    axes = ["batch" if i == 0 and n is None else str(n) for i, n in enumerate(shape)]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def _labelled(y_true: Any, y_pred: Any, missing_label: float) -> Any:
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


def holds(dtype: str, value: float) -> bool:
    """Whether labels of the dtype can be equal to the value: -1 is no uint8, although it casts."""
    if math.isnan(value):
        return False
    if dtype == "float16":  # Keras casts labels to float32, and a rounded one is another
        return float(np.float16(value)) == value
    if "float" in dtype:
        return True
    if not math.isfinite(value) or value != int(value):
        return False
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(low <= value <= high)


def _replace_missing(y_true: Any, y_pred: Any, in_space: Any) -> tuple[Any, Any]:
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


def example_weights(sample_weight: Any, in_space: Any, rank: int, dtype: Any) -> Any:
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
