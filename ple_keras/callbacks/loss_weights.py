"""Callbacks that schedule and log loss weights."""

from collections.abc import Callable, Mapping

import keras

from ple_keras._checks import check_keys, check_number
from ple_keras._keras.layers import find_layers
from ple_keras._typing import Logs
from ple_keras.heads.task_heads import TaskHeads


class LossWeightLogger(keras.callbacks.Callback):
    """Callback that logs the loss weight of each task at the end of each epoch.

    The key is `loss_weight/{task}`, and the value is the factor of `{task}_loss` in `loss`. Use it
    with learned weights, `TaskHeads(heads, loss_weighting="uncertainty")`. Schedules log the
    weights themselves.

    Raises:
        ValueError: In `fit`, if the model does not have exactly one TaskHeads, or was compiled with
            a loss.

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

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        weights = self._task_heads().loss_weights()
        logs.update({f"loss_weight/{task}": weight for task, weight in weights.items()})

    def _task_heads(self) -> TaskHeads:
        # On JAX, access to self.model in every hook updates the variables.
        found = find_layers(self.model, TaskHeads)
        loss = getattr(self.model, "loss", None)
        if len(found) != 1 or loss is not None:
            raise ValueError(
                f"{type(self).__name__} needs a model that is trained by its TaskHeads, such as a "
                f"MultiTaskModel. Received: model={self.model!r}, model.loss={loss!r}"
            )
        return found[0]


class LossWeightSchedule(LossWeightLogger):
    """Callback that schedules loss weights: `w_k(t) = w_{k,0} fn(k, t)` in epoch t.

    The current multipliers are saved with the model. `loss_weight/{task}` logs the weights, and
    learned weights are multiplied, too. To continue an interrupted run, pass the callback again,
    with `initial_epoch`.

    Args:
        fn: `fn(task, epoch) -> multiplier`, a finite number of at least 0. Epochs start at 0, as in
            Keras.

    Raises:
        TypeError: In `fit`, if `fn` can't be called like this, or does not return a number.
        ValueError: As for `LossWeightLogger`, and in `fit`, if a multiplier is negative or not
            finite.

    Example:

    >>> def warm_up(task, epoch):
    ...     return min(1.0, epoch / 3) if task == "purchase" else 1.0
    >>> callback = LossWeightSchedule(warm_up)
    """

    def __init__(self, fn: Callable[[str, int], float]) -> None:
        super().__init__()
        self.fn = fn

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        heads = self._task_heads()
        tasks = heads.trained_tasks
        factors = {t: check_number(self.fn(t, epoch), f"fn({t!r}, {epoch})", 0) for t in tasks}
        heads.multiply_loss_weights(factors)


class LossWeightDecay(LossWeightSchedule):
    """Callback that changes loss weights exponentially: `w_k(t) = w_{k,0} gamma_k^t`.

    t is the Keras epoch, from 0.

    Args:
        gamma: A finite number of at least 0 for all tasks, or a dict of such numbers keyed by task.
            The weights of tasks that a dict omits do not change.

    Raises:
        TypeError: If a gamma is not a number.
        ValueError: As for `LossWeightLogger`, and if a gamma is negative or not finite. In `fit`,
            if a task is unknown.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equation 10.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> callback = LossWeightDecay({"click": 0.9})
    >>> callback.fn("click", 2), callback.fn("purchase", 2)
    (0.81, 1.0)
    """

    gamma: float | dict[str, float]

    def __init__(self, gamma: float | Mapping[str, float]) -> None:
        super().__init__(self._multiplier)
        if isinstance(gamma, Mapping):
            self.gamma = {t: check_number(x, f"gamma[{t!r}]", minimum=0) for t, x in gamma.items()}
        else:
            self.gamma = check_number(gamma, "gamma", minimum=0)

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        if isinstance(self.gamma, dict):
            check_keys(self.gamma, self._task_heads().trained_tasks, "gamma", has_all=False)

    def _multiplier(self, task: str, epoch: int) -> float:
        gamma = self.gamma.get(task, 1.0) if isinstance(self.gamma, dict) else self.gamma
        return float(gamma**epoch)
