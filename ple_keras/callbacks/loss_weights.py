"""Callbacks that move and log the weights of tasks' losses."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from ple_keras._checks import check_known_keys, check_not_negative
from ple_keras._keras.walking import find_layers
from ple_keras._typing import Logs
from ple_keras.heads.task_heads import TaskHeads


class LossWeightLogger(keras.callbacks.Callback):
    """Writes the weights of the tasks' losses into `logs` at the end of each epoch.

    As `loss_weight/{task}`: what multiplies the task's `{task}_loss` in `loss`. Where two TaskHeads
    have a task of one name, the layer's name stands before it. For weights that
    are learned, `TaskHeads(heads, loss_weighting="uncertainty")`; the schedules do it themselves.

    Raises:
        ValueError: in `fit`, if the model holds no TaskHeads, or its losses don't read their
            weights from it.

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
                    f"The model's losses don't read their weights from its {heads.name!r}: compile "
                    "it with **heads.compile_kwargs() of that layer, without loss and loss_weights "
                    f"of your own. Received: loss={self.model.loss!r}"
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
        # Through self.model in every hook: on JAX that brings the variables up to date.
        found = find_layers(self.model, TaskHeads)
        if not found:
            raise ValueError(
                f"{type(self).__name__} needs a model with a TaskHeads layer. "
                f"Received: model={self.model!r}"
            )
        return found


class LossWeightSchedule(LossWeightLogger):
    """Moves the weights of the tasks' losses: `w_k(t) = w_{k,0} fn(k, t)` in epoch t.

    The multipliers in force are saved with the model, and stand in `logs` as `loss_weight/{task}`
    times the heads' `loss_weight`. Where weights are learned too, they multiply what is learned.
    To go on after an interruption, pass the callback again, with `initial_epoch`.

    Args:
        fn: `fn(task, epoch) -> multiplier`, a finite number of at least 0; epochs count from 0, as
            Keras counts them.

    Raises:
        TypeError: if `fn` is no function; in `fit`, if it gives no number.
        ValueError: in `fit`, if a multiplier is negative or not finite, or as `LossWeightLogger`.

    Example:

    >>> def warm_up(task, epoch):
    ...     return min(1.0, epoch / 3) if task == "purchase" else 1.0
    >>> callback = LossWeightSchedule(warm_up)
    """

    def __init__(self, fn: Callable[[str, int], float]) -> None:
        super().__init__()
        if not callable(fn):
            raise TypeError(f"fn must be a function fn(task, epoch). Received: fn={fn!r}")
        self.fn = fn

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        for heads in self._task_heads():
            heads.multiply_loss_weights(
                {
                    task: check_not_negative(self.fn(task, epoch), f"fn({task!r}, {epoch})")
                    for task in heads.trained_tasks
                }
            )


class LossWeightDecay(LossWeightSchedule):
    """Lets the weights of the tasks' losses fall, or rise: `w_k(t) = w_{k,0} gamma_k^t`.

    Equation 10 of Tang et al., RecSys 2020; t is Keras's epoch, from 0.

    Args:
        gamma: A finite number of at least 0, for all tasks or by task; tasks that a dict leaves
            out keep their weights.

    Raises:
        TypeError: if a gamma is no number.
        ValueError: if it is negative or not finite; in `fit`, if a task is unknown, or as
            `LossWeightSchedule`.

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
