"""Callbacks that schedule and log loss weights."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from ple_keras._checks import check_known_keys, check_not_negative
from ple_keras._keras.tensors import to_numpy
from ple_keras._keras.walking import find_layers
from ple_keras._typing import Logs, Tensor
from ple_keras.callbacks._schedule_arguments import KEYWORD, logs_argument
from ple_keras.heads.task_heads import TaskHeads


class LossWeightLogger(keras.callbacks.Callback):
    """Callback that logs the loss weight of each task at the end of each epoch.

    The key is `loss_weight/{task}`, and the value is the factor of `{task}_loss` in `loss`. If two
    TaskHeads have a task with the same name, the key is `loss_weight/{name of the layer}/{task}`.
    Use it with learned weights, `TaskHeads(heads, loss_weighting="uncertainty")`. Schedules log
    the weights themselves.

    Raises:
        ValueError: In `fit`, if the model has no TaskHeads, or its losses do not use the weights
            of its TaskHeads.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")], loss_weighting="uncertainty")
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, heads({"click": inputs, "buy": inputs}))
    >>> model.compile("adam", **heads.compile_kwargs())
    >>> x, y = keras.ops.ones((4, 3)), {"click": [0, 1, 1, 1], "buy": [0, 0, 1, 0]}
    >>> y = {task: keras.ops.convert_to_tensor(labels) for task, labels in y.items()}
    >>> history = model.fit(x, y, verbose=0, callbacks=[LossWeightLogger()]).history
    >>> sorted(key for key in history if key.startswith("loss_weight"))
    ['loss_weight/buy', 'loss_weight/click']
    """

    def on_train_begin(self, logs: Logs = None) -> None:
        for heads in self._task_heads():
            if not heads.is_used_by(self.model.loss):
                raise ValueError(
                    "model must be compiled with **heads.compile_kwargs() of its TaskHeads "
                    f"{heads.name!r}, without the arguments loss and loss_weights, so that its "
                    f"losses use the weights of this layer. Received: loss={self.model.loss!r}"
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

    A function with a third parameter `logs` also gets the logs of the last two epochs, the older
    first: an empty list in epoch 0, and one dict in epoch 1. They contain the losses, the metrics,
    and the keys of callbacks that come earlier in the list. They are saved with the model, so that
    a continued run has them. Callbacks that save the model must therefore come later in the list.

    Args:
        fn: `fn(task, epoch) -> multiplier` or `fn(task, epoch, logs) -> multiplier`, a finite
            number, at least 0. Epochs start at 0, as in Keras. The logs are passed if the third
            parameter is named `logs` or has no default, and as a keyword if a later or
            keyword-only parameter is named `logs`.

    Raises:
        TypeError: If `fn` can't be called in one of these forms. In `fit`, if it does not return a
            number.
        ValueError: In `fit`, if a multiplier is negative or not finite, or as `LossWeightLogger`.

    Warns:
        UserWarning: In `fit`, if `initial_epoch` is not 0, and the model lacks the logs of the
            epoch before.

    Example:

    >>> def warm_up(task, epoch):
    ...     return min(1.0, epoch / 3) if task == "purchase" else 1.0
    >>> callback = LossWeightSchedule(warm_up)
    >>> def increase_if_worse(task, epoch, logs):
    ...     losses = [of_epoch[f"{task}_loss"] for of_epoch in logs]
    ...     return 2.0 if len(losses) == 2 and losses[1] > losses[0] else 1.0
    >>> callback = LossWeightSchedule(increase_if_worse)
    """

    def __init__(self, fn: Callable[..., float]) -> None:
        super().__init__()
        self.fn = fn
        self._logs_argument = logs_argument(fn)
        self._has_begun = False

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        self._has_begun = False

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        for heads in self._task_heads():
            logs_of_epochs = heads.epoch_logs(epoch) if self._logs_argument else []
            if self._logs_argument and not logs_of_epochs and epoch > 0 and not self._has_begun:
                _warn_of_missing_logs(epoch)
            heads.multiply_loss_weights(
                {
                    task: check_not_negative(
                        self._call_fn(task, epoch, logs_of_epochs), f"fn({task!r}, {epoch})"
                    )
                    for task in heads.trained_tasks
                }
            )
        self._has_begun = True

    def _call_fn(self, task: str, epoch: int, logs: list[dict[str, float]]) -> float:
        if self._logs_argument == KEYWORD:
            return self.fn(task, epoch, logs=logs)
        return self.fn(task, epoch, *([logs] if self._logs_argument else []))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self._logs_argument:
            for heads in self._task_heads():
                heads.store_epoch_logs(epoch, _numbers_of(logs or {}))


def _numbers_of(logs: Mapping[str, Tensor]) -> dict[str, float]:
    arrays = {key: to_numpy(value) for key, value in logs.items()}
    return {key: float(a) for key, a in arrays.items() if a.ndim == 0 and a.dtype.kind in "fiu"}


def _warn_of_missing_logs(epoch: int) -> None:
    warnings.warn(
        f"fn gets no logs in epoch {epoch}, because the model has none of epoch {epoch - 1}. In "
        "the run that saves the model, pass LossWeightSchedule before the callbacks that save it",
        stacklevel=3,
    )


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
