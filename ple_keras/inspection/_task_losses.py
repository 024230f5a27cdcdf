"""The losses of a model's tasks, unweighted."""

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
    """The loss of each task that is trained, in task order."""
    heads = {head.task: head for head in find_layers(model, Head)}
    compiled = getattr(model, "loss", None)
    if isinstance(compiled, Mapping):
        losses = {task: _compiled_loss(task, loss, heads) for task, loss in compiled.items()}
    elif compiled is not None:
        raise ValueError(
            "model must be compiled with losses by task, in a dict. "
            f"Received: model.loss={compiled!r}"
        )
    else:
        losses = {task: head.new_loss() for task, head in heads.items()}
    tasks = [task for layer in find_layers(model, TaskHeads) for task in layer.trained_tasks]
    tasks += [task for block in levels.values() for task in block.task_names]
    tasks = [task for task in dict.fromkeys([*tasks, *losses]) if losses.get(task) is not None]
    if not tasks:
        raise ValueError(
            "model must have losses by task: those of TaskHeads, or those that it was compiled "
            f"with as a dict by task. Received: model={model!r}, model.loss={compiled!r}"
        )
    return {task: losses[task] for task in tasks}


def _compiled_loss(task: str, loss: Nested, heads: Mapping[str, Head]) -> Any:
    """The head's own loss where that is what was compiled, without its weight."""
    losses = [one for one in keras.tree.flatten(loss) if one is not None]
    if task in heads and any(isinstance(one, TrainedLoss) for one in losses):
        return heads[task].new_loss()
    if len(losses) > 1:
        raise ValueError(
            f"model must be compiled with one loss for each task. Received: loss[{task!r}]={loss!r}"
        )
    known = keras.losses.get(losses[0] if losses else None)
    return known if known is None or isinstance(known, keras.Loss) else MaskedLoss(known)


def scaled_loss(loss: LossFunction, labels: Tensor, predictions: Tensor) -> Tensor:
    """A task's loss times about the square root of the number of examples.

    No cosine minds. But in float16 the gradient of one example in the mean of many falls to 0, and
    their sum would overflow; the square root keeps both in range, and a power of 2 rounds nothing.
    """
    examples = max(math.prod(predictions.shape[:-1]), 1)
    return 2.0 ** round(math.log2(examples) / 2) * ops.mean(loss(labels, predictions))
