"""Callbacks that schedule and log loss weights."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from ple_keras._checks import check_known_keys, check_not_negative
from ple_keras._keras.walking import find_layers
from ple_keras._typing import Logs
from ple_keras.heads.task_heads import TaskHeads


class LossWeightLogger(keras.callbacks.Callback):
    """Callback that logs the loss weight of each task at the end of each epoch.

    The key is `loss_weight/{task}`, and the value is the factor of `{task}_loss` in `loss`. If two
    TaskHeads have a task with the same name, the key is `loss_weight/{name of the layer}/{task}`.
    Use it with learned weights, `TaskHeads(heads, loss_weighting="uncertainty")`. Schedules log
    the weights themselves.

    Raises:
        ValueError: In `fit`, if the model has no TaskHeads, or was compiled with other losses.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")], loss_weighting="uncertainty")
    >>> inputs = keras.Input((3,))
    >>> model = MultiTaskModel(inputs, heads({"click": inputs, "buy": inputs}))
    >>> model.compile("adam")
    >>> x, y = keras.ops.ones((4, 3)), {"click": [0, 1, 1, 1], "buy": [0, 0, 1, 0]}
    >>> y = {task: keras.ops.convert_to_tensor(labels) for task, labels in y.items()}
    >>> history = model.fit(x, y, verbose=0, callbacks=[LossWeightLogger()]).history
    >>> sorted(key for key in history if key.startswith("loss_weight"))
    ['loss_weight/buy', 'loss_weight/click']
    """

    def on_train_begin(self, logs: Logs = None) -> None:
        self._task_heads()
        if self.model.loss is not None:
            raise ValueError(
                "model must be trained with the losses of its TaskHeads, such as a MultiTaskModel, "
                "since losses in compile do not have its weights. "
                f"Received: model.loss={self.model.loss!r}"
            )

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        layers = self._task_heads()
        tasks = [task for heads in layers for task in heads.trained_tasks]
        for heads in layers:
            for task, weight in heads.loss_weights().items():
                name = task if tasks.count(task) == 1 else f"{heads.name}/{task}"
                if logs is not None:
                    logs[f"loss_weight/{name}"] = weight

    def _task_heads(self) -> list[TaskHeads]:
        # On JAX, access to self.model in every hook updates the variables.
        found = find_layers(self.model, TaskHeads)
        if not found:
            raise ValueError(
                f"{type(self).__name__} needs a model with a TaskHeads layer. "
                f"Received: model={self.model!r}"
            )
        return found


class LossWeightSchedule(LossWeightLogger):
    """Callback that schedules loss weights: `w_k(t) = w_{k,0} fn(k, t)` in epoch t.

    The current multipliers are saved with the model. They are logged as `loss_weight/{task}`, times
    the heads' `loss_weight`. Learned weights are multiplied by them. To continue an interrupted
    run, pass the callback again, with `initial_epoch`.

    Args:
        fn: `fn(task, epoch) -> multiplier`, a finite number, at least 0. Epochs start at 0, as in
            Keras.

    Raises:
        TypeError: If `fn` can't be called in this form. In `fit`, if it does not return a number.
        ValueError: In `fit`, if a multiplier is negative or not finite, or as `LossWeightLogger`.

    Example:

    >>> def warm_up(task, epoch):
    ...     return min(1.0, epoch / 3) if task == "purchase" else 1.0
    >>> callback = LossWeightSchedule(warm_up)
    """

    def __init__(self, fn: Callable[[str, int], float]) -> None:
        super().__init__()
        _check_takes_task_and_epoch(fn)
        self.fn = fn

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        for heads in self._task_heads():
            heads.multiply_loss_weights(
                {
                    task: check_not_negative(self.fn(task, epoch), f"fn({task!r}, {epoch})")
                    for task in heads.trained_tasks
                }
            )


def _check_takes_task_and_epoch(fn: Callable[[str, int], float]) -> None:
    try:
        inspect.signature(fn).bind("task", 0)
    except ValueError:  # some builtins have no signature
        return
    except TypeError as error:
        raise TypeError(
            f"fn must be a function fn(task, epoch): {error}. Received: fn={fn!r}"
        ) from error


class LossWeightDecay(LossWeightSchedule):
    """Callback that changes loss weights exponentially: `w_k(t) = w_{k,0} gamma_k^t`.

    t is the Keras epoch, from 0.

    Args:
        gamma: A finite number, at least 0, for all tasks or by task. The weights of tasks that a
            dict omits do not change.

    Raises:
        TypeError: If a gamma is not a number.
        ValueError: If a gamma is negative or not finite. In `fit`, if a task is unknown, or as
            `LossWeightSchedule`.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equation 10.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> callback = LossWeightDecay({"click": 0.9})
    >>> callback.fn("click", 2), callback.fn("purchase", 2)
    (0.81, 1.0)
    """

    def __init__(self, gamma: float | Mapping[str, float]) -> None:
        super().__init__(self._multiplier)
        if isinstance(gamma, Mapping):
            self.gamma: Any = {
                task: check_not_negative(value, f"gamma[{task!r}]") for task, value in gamma.items()
            }
        else:
            self.gamma = check_not_negative(gamma, "gamma")

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        if isinstance(self.gamma, dict):
            tasks = [task for heads in self._task_heads() for task in heads.trained_tasks]
            check_known_keys(self.gamma, tasks, "gamma")

    def _multiplier(self, task: str, epoch: int) -> float:
        gamma = self.gamma.get(task, 1.0) if isinstance(self.gamma, dict) else self.gamma
        try:
            return float(gamma**epoch)
        except OverflowError:
            return math.inf
