"""Sample spaces of tasks, derived from the labels of other tasks."""

import math
import sys
from collections.abc import Mapping

import keras
import numpy as np

from ple_keras._checks import check_by_task, check_keys
from ple_keras._typing import ByName, TaskName, Tensor
from ple_keras.labels.sample_space import (
    can_represent,
    check_dtype,
    check_missing_label,
    is_missing,
    shapes_match,
)
from ple_keras.labels.task_names import in_dependency_order


def mask_labels(
    y: ByName, spaces: Mapping[str, str], missing_label: float = math.nan
) -> dict[str, Tensor]:
    """Make labels of a task missing outside its sample space.

    With `{"purchase": "click"}`, a purchase label is missing where the click label is 0 or missing.
    Spaces can be chained: with `"refund": "purchase"`, a refund label is also missing where there
    is no purchase or no click.

    Args:
        y: A dict of labels keyed by task, arrays or tensors. TensorFlow tensors in
            `tf.data.Dataset.map` work with every backend.
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
    if not isinstance(spaces, Mapping) or not all(isinstance(p, str) for p in spaces.values()):
        raise TypeError(f"spaces must map tasks to tasks. Received: spaces={spaces!r}")
    named = {**spaces, **dict.fromkeys(spaces.values())}
    check_keys(named, list(check_by_task(y, [*named], "y")), "spaces", has_all=False)
    missing_label = check_missing_label(missing_label)
    masked = dict(y)
    message = f"spaces must not contain a cycle. Received: spaces={dict(spaces)!r}"
    for task in in_dependency_order({t: [p] for t, p in spaces.items()}, message):
        masked[task] = _mask_task(masked, task, spaces[task], missing_label)
    return masked


def _mask_task(y: ByName, task: TaskName, parent: TaskName, missing_label: float) -> Tensor:
    """Return the labels of a task, missing where the parent's labels are 0 or missing.

    TensorFlow's tensors need TensorFlow's functions, since tf.data uses them with every backend.
    """
    labels, parent_labels = y[task], y[parent]
    if any(type(x).__module__.startswith("tensorflow") for x in (labels, parent_labels)):
        cast, where = sys.modules["tensorflow"].cast, sys.modules["tensorflow"].where
    elif any(map(keras.ops.is_tensor, (labels, parent_labels))):
        cast, where = keras.ops.cast, keras.ops.where
    else:
        cast, where = np.asarray, np.where
        labels, parent_labels = np.asarray(labels), np.asarray(parent_labels)
    check_dtype(parent_labels, f"y[{parent!r}]")
    dtype = check_dtype(labels, f"y[{task!r}]")
    if math.isnan(missing_label):
        dtype = dtype if "float" in dtype else "float32"
    elif not can_represent(dtype := "int32" if dtype == "bool" else dtype, missing_label):
        raise ValueError(
            f"missing_label must fit the dtype {dtype} of y[{task!r}]. Received: {missing_label=}"
        )
    value = cast(parent_labels, "float32")
    has_label = (value != 0) & ~is_missing(value, [missing_label])
    target = tuple(labels.shape)
    if len(has_label.shape) == len(target) + 1 and has_label.shape[-1] == 1:
        has_label = has_label[..., 0]
    elif len(has_label.shape) == len(target) - 1:
        has_label = has_label[..., None]
    shape = tuple(has_label.shape)
    is_wide = len(shape) > 1 and shape[-1] == 1
    if not shapes_match(shape, (*target[:-1], 1) if is_wide else target):
        raise ValueError(
            f"y[{parent!r}] must have the shape {target} of y[{task!r}]. Received: {shape=}"
        )
    return where(has_label, cast(labels, dtype), cast(missing_label, dtype))
