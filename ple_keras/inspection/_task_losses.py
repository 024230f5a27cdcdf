"""The losses of a model's tasks, without loss weights."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from ple_keras._keras.walking import find_layers
from ple_keras._typing import LossFunction, Nested, Tensor
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.losses.joint_losses import TrainedLoss
from ple_keras.losses.masked_loss import MaskedLoss

Levels = Mapping[str, CGCBlock]
TaskLosses = Mapping[str, Callable[..., Any]]


def task_losses(model: keras.Layer, levels: Levels) -> TaskLosses:
    """Return the loss of each trained task, in task order."""
    heads = {head.task: head for head in find_layers(model, Head)}
    compiled = getattr(model, "loss", None)
    if isinstance(compiled, Mapping):
        losses = {task: _compiled_loss(task, loss, heads) for task, loss in compiled.items()}
    elif compiled is not None:
        raise ValueError(
            "model must be compiled with a dict of losses by task. "
            f"Received: model.loss={compiled!r}"
        )
    else:
        losses = {task: head.new_loss() for task, head in heads.items()}
    tasks = [task for layer in find_layers(model, TaskHeads) for task in layer.trained_tasks]
    tasks += [task for block in levels.values() for task in block.task_names]
    tasks = [task for task in dict.fromkeys([*tasks, *losses]) if losses.get(task) is not None]
    if not tasks:
        raise ValueError(
            "model must have TaskHeads, or be compiled with a dict of losses by task. "
            f"Received: model={model!r}, model.loss={compiled!r}"
        )
    return {task: losses[task] for task in tasks}


def _compiled_loss(task: str, loss: Nested, heads: Mapping[str, Head]) -> Any:
    """Return the compiled loss of a task, without its loss weight."""
    losses = [item for item in keras.tree.flatten(loss) if item is not None]
    if task in heads and any(isinstance(item, TrainedLoss) for item in losses):
        return heads[task].new_loss()
    if len(losses) > 1:
        raise ValueError(
            f"model must be compiled with one loss per task. Received: loss[{task!r}]={loss!r}"
        )
    found = keras.losses.get(losses[0] if losses else None)
    return found if found is None or isinstance(found, keras.Loss) else MaskedLoss(found)


def scaled_loss(loss: LossFunction, labels: Tensor, predictions: Tensor) -> Tensor:
    """Return a task's loss times about the square root of the number of examples.

    Cosines are invariant to this scale. In float16, gradients of a mean over many examples
    underflow, and those of a sum overflow; the square root keeps both in range. A power of 2
    adds no rounding error.
    """
    examples = max(math.prod(predictions.shape[:-1]), 1)
    return 2.0 ** round(math.log2(examples) / 2) * ops.mean(loss(labels, predictions))
