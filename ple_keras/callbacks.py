"""Callbacks: loss weights that move and are seen, and one score of several metrics."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from ple_keras._validation import check_known_keys, check_not_negative, check_number
from ple_keras.task_heads import TaskHeads

Logs = dict[str, Any] | None


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
            if not heads.weighs(self.model.loss):
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
        layers = self.model._flatten_layers()
        found = [layer for layer in layers if isinstance(layer, TaskHeads)]
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


class MultiTaskScore(keras.callbacks.Callback):
    """Writes a weighted sum of metrics into `logs`: one number to stop on and to save by.

    Higher is better: give metrics such as an RMSE, where less is, a negative weight. In the list
    of callbacks it must stand before those that read the score. Epochs without validation have
    none.

    Args:
        weights: A finite number for each key of `logs`.
        name: The score's key.

    Raises:
        TypeError: if `weights` is no dict of numbers.
        ValueError: if it is empty or a weight is not finite; in `fit`, if `logs` lack a key.

    Example:

    >>> score = MultiTaskScore({"val_click_auc": +1, "val_watch_time_rmse": -0.5})
    >>> stop = keras.callbacks.EarlyStopping(monitor="val_mtl_score", mode="max", patience=3)
    >>> callbacks = [score, stop]
    """

    def __init__(self, weights: Mapping[str, float], name: str = "val_mtl_score") -> None:
        super().__init__()
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights must be a dict by metric. Received: weights={weights!r}")
        if not weights:
            raise ValueError("weights must name at least one metric. Received: weights={}")
        self.weights = {key: check_number(w, f"weights[{key!r}]") for key, w in weights.items()}
        self.name = name

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs if logs is not None else {}
        missing = [key for key in self.weights if key not in logs]
        has_validation = any(key.startswith("val_") for key in logs)
        if not has_validation and any(key.startswith("val_") for key in missing):
            self._has_waited = True
            return
        if missing:
            raise ValueError(
                f"weights must name keys of the logs, {sorted(logs)}. Received: weights={missing}"
            )
        logs[self.name] = sum(weight * float(logs[key]) for key, weight in self.weights.items())
        self._has_scored = True

    def on_train_begin(self, logs: Logs = None) -> None:
        self._has_waited = self._has_scored = False

    def on_train_end(self, logs: Logs = None) -> None:
        if self._has_waited and not self._has_scored:
            warnings.warn(
                f"There was no validation, and so no {self.name!r}: pass validation_data to fit",
                stacklevel=2,
            )
