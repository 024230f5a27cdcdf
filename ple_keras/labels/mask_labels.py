"""The sample space of a task, derived from the labels of another task."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from ple_keras._checks import check_by_task, check_known_keys
from ple_keras._typing import TaskName, Tensor
from ple_keras.labels.alignment import check_dtype, shapes_match
from ple_keras.labels.sample_space import can_represent, check_missing_label
from ple_keras.labels.task_names import in_dependency_order


def mask_labels(
    y: Mapping[TaskName, Tensor],
    spaces: Mapping[str, str],
    missing_label: float = math.nan,
) -> dict[str, Any]:
    """Make labels of a task missing outside its sample space.

    With `{"purchase": "click"}`, a purchase label is missing where the click label is 0 or missing.
    Spaces can be chained: with `"refund": "purchase"` too, a refund label is missing where there
    is no purchase or no click.

    Args:
        y: Labels by task: arrays or tensors. TensorFlow tensors in `tf.data.Dataset.map` work with
            every backend.
        spaces: For a task, the task whose label is neither 0 nor missing in its sample space.
        missing_label: The value of a missing label of all tasks, as in the heads, in addition to
            NaN. With NaN, masked integer labels become float32, and -1 counts as positive.

    Returns:
        A new dict with the keys of `y`: arrays for arrays, tensors for tensors.

    Raises:
        TypeError: If `y` or `spaces` is not a dict.
        ValueError: If a task is not in `y`, `spaces` contains a cycle, the label of a space is not
            one number, or the dtype of a label can't represent `missing_label`.

    Example:

    >>> y = {"click": np.array([1, 1, 0]), "purchase": np.array([0, 1, 0])}
    >>> mask_labels(y, {"purchase": "click"}, missing_label=-1)["purchase"]
    array([ 0,  1, -1])
    """
    if not isinstance(spaces, Mapping):
        raise TypeError(f"spaces must be a dict by task. Received: spaces={spaces!r}")
    if not all(isinstance(parent, str) for parent in spaces.values()):
        raise TypeError(f"spaces must map each task to one other task. Received: spaces={spaces!r}")
    check_by_task(y, [*dict.fromkeys([*spaces, *spaces.values()])], "y")
    check_known_keys(spaces, list(y), "spaces")
    check_known_keys(dict.fromkeys(spaces.values()), list(y), "spaces")
    missing_label = check_missing_label(missing_label)
    masked = dict(y)
    parents = {task: [parent] for task, parent in spaces.items()}
    message = f"spaces must not contain a cycle. Received: spaces={dict(spaces)!r}"
    for task in in_dependency_order(parents, message):
        masked[task] = _mask_task(
            masked[task], masked[spaces[task]], missing_label, task, spaces[task]
        )
    return masked


class _ArrayOps(NamedTuple):
    """Array functions of the library that made the labels."""

    cast: Callable[[Any, str], Any]
    where: Callable[[Any, Any, Any], Any]
    isnan: Callable[[Any], Any]

    @classmethod
    def of(cls, *arrays: Tensor) -> "_ArrayOps":
        """Return TensorFlow's for its tensors, which tf.data uses with every backend."""
        if any(type(array).__module__.startswith("tensorflow") for array in arrays):
            tensorflow = sys.modules["tensorflow"]
            return cls(tensorflow.cast, tensorflow.where, tensorflow.math.is_nan)
        if any(map(keras.ops.is_tensor, arrays)):
            return cls(keras.ops.cast, keras.ops.where, keras.ops.isnan)
        return cls(np.asarray, np.where, np.isnan)


def _mask_task(
    labels: Tensor, parent_label: Tensor, missing_label: float, task: str, parent: str
) -> Tensor:
    ops = _ArrayOps.of(labels, parent_label)
    if ops.cast is np.asarray:
        labels, parent_label = np.asarray(labels), np.asarray(parent_label)
    dtype = _masked_dtype(missing_label, labels, task)
    has_label = _is_positive(
        parent_label, missing_label, ops, check_dtype(parent_label, f"y[{parent!r}]")
    )
    has_label = _align_shape(has_label, labels, task, parent)
    return ops.where(has_label, ops.cast(labels, dtype), ops.cast(missing_label, dtype))


def _is_positive(parent_label: Tensor, missing_label: float, ops: _ArrayOps, dtype: str) -> Tensor:
    """Return True where a label is neither 0 nor missing."""
    if dtype == "bool":
        return parent_label
    is_positive = parent_label != 0
    if can_represent(dtype, missing_label):
        is_positive = is_positive & (parent_label != ops.cast(missing_label, dtype))
    return is_positive & ~ops.isnan(parent_label) if "float" in dtype else is_positive


def _masked_dtype(missing_label: float, labels: Tensor, task: str) -> str:
    """Return the dtype of the masked labels; check that it can represent `missing_label`."""
    dtype = check_dtype(labels, f"y[{task!r}]")
    if math.isnan(missing_label):
        return dtype if "float" in dtype else "float32"
    dtype = "int32" if dtype == "bool" else dtype
    if not can_represent(dtype, missing_label):
        raise ValueError(
            f"missing_label must be a value of the dtype of y[{task!r}], {dtype}. "
            f"Received: missing_label={missing_label!r}"
        )
    return dtype


def _align_shape(has_label: Tensor, labels: Tensor, task: str, parent: str) -> Tensor:
    """Return `has_label` in a shape that broadcasts with labels `(...)` or `(..., n)`."""
    shape, target = tuple(has_label.shape), tuple(labels.shape)
    if len(shape) == len(target) + 1 and shape[-1] == 1:
        has_label, shape = has_label[..., 0], shape[:-1]
    elif len(shape) == len(target) - 1:
        has_label, shape = has_label[..., None], (*shape, 1)
    is_wide = len(shape) > 1 and shape[-1] == 1
    if not shapes_match(shape, (*target[:-1], 1) if is_wide else target):
        raise ValueError(
            f"y[{parent!r}] must have one label for each label of y[{task!r}], of shape {target}. "
            f"Received: y[{parent!r}].shape={tuple(has_label.shape)}"
        )
    return has_label
