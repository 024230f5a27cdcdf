"""The sample space of a task, read from another task's labels."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from ple_keras._checks import check_known_keys, in_dependency_order
from ple_keras._typing import TaskName, Tensor
from ple_keras.labels.alignment import agree, check_dtype
from ple_keras.labels.missing_label import check_missing_label, holds


def mask_labels(
    y: Mapping[TaskName, Tensor],
    spaces: Mapping[str, str],
    missing_label: float = math.nan,
) -> dict[str, Any]:
    """Make labels missing where another label says that there can be none.

    With `{"purchase": "click"}` a purchase label is missing where the click is 0, or missing
    itself. Spaces may be chained: with `"refund": "purchase"` too, a refund is missing where there
    was no purchase, or no click.

    Args:
        y: Labels by task: arrays, or tensors, also those inside of `tf.data.Dataset.map`, whatever
            Keras's backend.
        spaces: For a task, the one whose label tells, as 0 or not, whether it has any.
        missing_label: What stands for "no label" in all of them, as in the heads, beside NaN.
            With NaN, labels that were integers become float32, and -1 is a yes.

    Returns:
        A new dict with the keys of `y`: arrays for arrays, tensors for tensors.

    Raises:
        TypeError: if `y` or `spaces` is no dict.
        ValueError: if a task is not in `y`, spaces go in a circle, the label that tells is not one
            number, or an integer label can't hold `missing_label`.

    Example:

    >>> y = {"click": np.array([1, 1, 0]), "purchase": np.array([0, 1, 0])}
    >>> mask_labels(y, {"purchase": "click"}, missing_label=-1)["purchase"]
    array([ 0,  1, -1])
    """
    for argument, value in (("y", y), ("spaces", spaces)):
        if not isinstance(value, Mapping):
            raise TypeError(f"{argument} must be a dict by task. Received: {argument}={value!r}")
    if not all(isinstance(parent, str) for parent in spaces.values()):
        raise TypeError(f"spaces must map a task to one other. Received: spaces={spaces!r}")
    check_known_keys(spaces, list(y), "spaces")
    check_known_keys(dict.fromkeys(spaces.values()), list(y), "spaces")
    missing_label = check_missing_label(missing_label)
    masked = dict(y)
    message = f"spaces must not go in a circle. Received: spaces={dict(spaces)!r}"
    for task in in_dependency_order({task: [parent] for task, parent in spaces.items()}, message):
        masked[task] = _mask(masked[task], masked[spaces[task]], missing_label, task, spaces[task])
    return masked


class _Ops(NamedTuple):
    """What it takes, from the library that the labels are from."""

    cast: Callable[[Any, str], Any]
    where: Callable[[Any, Any, Any], Any]
    isnan: Callable[[Any], Any]

    @classmethod
    def of(cls, *arrays: Tensor) -> "_Ops":
        """TensorFlow for its tensors, which a tf.data pipeline holds under every backend."""
        if any(type(array).__module__.startswith("tensorflow") for array in arrays):
            tensorflow = sys.modules["tensorflow"]
            return cls(tensorflow.cast, tensorflow.where, tensorflow.math.is_nan)
        if any(map(keras.ops.is_tensor, arrays)):
            return cls(keras.ops.cast, keras.ops.where, keras.ops.isnan)
        return cls(np.asarray, np.where, np.isnan)


def _mask(
    labels: Tensor, parent_label: Tensor, missing_label: float, task: str, parent: str
) -> Tensor:
    ops = _Ops.of(labels, parent_label)
    if ops.cast is np.asarray:
        labels, parent_label = np.asarray(labels), np.asarray(parent_label)
    dtype = _dtype_with(missing_label, labels, task)
    has_label = _is_positive(
        parent_label, missing_label, ops, check_dtype(parent_label, f"y[{parent!r}]")
    )
    has_label = _align_shape(has_label, labels, task, parent)
    return ops.where(has_label, ops.cast(labels, dtype), ops.cast(missing_label, dtype))


def _is_positive(parent_label: Tensor, missing_label: float, ops: _Ops, dtype: str) -> Tensor:
    """True where a label is neither 0 nor missing."""
    if dtype == "bool":
        return parent_label
    yes = parent_label != 0
    if holds(dtype, missing_label):
        yes = yes & (parent_label != ops.cast(missing_label, dtype))
    return yes & ~ops.isnan(parent_label) if "float" in dtype else yes


def _dtype_with(missing_label: float, labels: Tensor, task: str) -> str:
    """The dtype of the labels, or what can hold the missing one too."""
    dtype = check_dtype(labels, f"y[{task!r}]")
    if math.isnan(missing_label):
        return dtype if "float" in dtype else "float32"
    dtype = "int32" if dtype == "bool" else dtype
    if not holds(dtype, missing_label):
        raise ValueError(
            f"missing_label must be one that y[{task!r}], {dtype}, can hold. "
            f"Received: missing_label={missing_label!r}"
        )
    return dtype


def _align_shape(has_label: Tensor, labels: Tensor, task: str, parent: str) -> Tensor:
    """`has_label` in a shape that goes with the labels': `(...)` may stand beside `(..., n)`."""
    shape, target = tuple(has_label.shape), tuple(labels.shape)
    if len(shape) == len(target) + 1 and shape[-1] == 1:
        has_label, shape = has_label[..., 0], shape[:-1]
    elif len(shape) == len(target) - 1:
        has_label, shape = has_label[..., None], (*shape, 1)
    is_wide = len(shape) > 1 and shape[-1] == 1
    if not agree(shape, (*target[:-1], 1) if is_wide else target):
        raise ValueError(
            f"y[{parent!r}] must have a label for each of y[{task!r}], whose shape is {target}. "
            f"Received: y[{parent!r}].shape={tuple(has_label.shape)}"
        )
    return has_label
