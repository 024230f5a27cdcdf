"""Predictions of tasks in the outputs of a model, and their masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ple_keras._checks import short_repr
from ple_keras._keras.internals import mask_of
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested, TaskName
from ple_keras.inspection.batches import Batches


def predictions_by_task(
    outputs: Nested, tasks: Sequence[TaskName], num_heads: int
) -> dict[TaskName, Any]:
    """Return the predictions of tasks in the outputs of a model with `num_heads` heads.

    Raises:
        ValueError: If the predictions of a task can't be told from the other outputs.
    """
    if isinstance(outputs, Mapping):
        if all(task in outputs for task in tasks):
            return {task: outputs[task] for task in tasks}
    elif num_heads == 1 and len(leaves := keras.tree.flatten(outputs)) == 1:
        return dict.fromkeys(tasks, leaves[0])
    raise ValueError(
        f"model must return predictions by task, with the keys {list(tasks)}, or the predictions "
        f"of its only task. Received: outputs={short_repr(outputs)}"
    )


def prediction_masks(
    model: keras.Model, x: Nested, tasks: Sequence[TaskName], num_heads: int, batch_size: int
) -> dict[TaskName, np.ndarray]:
    """Return the Keras masks of the predictions of tasks, which `predict` drops.

    Tasks whose predictions have no mask are left out.
    """
    masks: dict[TaskName, list[np.ndarray]] = {}
    for batch, _ in Batches(x, batch_size=batch_size):
        predictions = predictions_by_task(model(batch, training=False), tasks, num_heads)
        found = {task: mask_of(tensor) for task, tensor in predictions.items()}
        for task, mask in found.items():
            if mask is not None:
                masks.setdefault(task, []).append(to_numpy(mask))
        if not masks:
            break
    return {task: np.concatenate(of_task) for task, of_task in masks.items()}
