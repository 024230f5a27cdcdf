"""A callback that schedules and logs loss weights."""

from collections.abc import Callable

import keras

from ple_keras._checks import check_number
from ple_keras._keras.layers import find_layers
from ple_keras._typing import Logs
from ple_keras.heads.task_heads import TaskHeads


class LossWeightSchedule(keras.callbacks.Callback):
    """Callback that schedules and logs loss weights: `w_k(t) = w_{k,0} schedule(k, t)` in epoch t.

    At the end of each epoch, `loss_weight/{task}` in the logs is the factor of `{task}_loss` in
    `loss`. Weights learned with `TaskHeads(heads, loss_weighting="uncertainty")` are multiplied,
    too. The current multipliers are saved with the model. To continue an interrupted run, pass the
    callback again, with `initial_epoch`.

    Args:
        schedule: `schedule(task, epoch) -> multiplier`, a finite number of at least 0. Epochs start
            at 0, as in Keras. Without it, the callback only logs the weights.

    Raises:
        TypeError: If `schedule` is not callable. In `fit`, if it does not return a number.
        ValueError: In `fit`, if the model does not have exactly one TaskHeads, or was compiled with
            a loss, or a multiplier is negative or not finite.

    Reference:

    - An exponential decay, `gamma_k ** epoch`: Tang, Liu, Zhao, Gong, "Progressive Layered
      Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations",
      RecSys 2020, equation 10. [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((3,))
    >>> model = MultiTaskModel(inputs, heads({"click": inputs, "buy": inputs}))
    >>> model.compile("adam")
    >>> x, y = np.ones((4, 3)), {"click": np.array([0, 1, 1, 1]), "buy": np.array([0, 0, 1, 0])}
    >>> gamma = {"click": 0.5, "buy": 1.0}
    >>> decay = LossWeightSchedule(lambda task, epoch: gamma[task] ** epoch)
    >>> history = model.fit(x, y, epochs=3, callbacks=[decay], verbose=0).history
    >>> history["loss_weight/click"], history["loss_weight/buy"]
    ([1.0, 0.5, 0.25], [1.0, 1.0, 1.0])
    """

    def __init__(self, schedule: Callable[[str, int], float] | None = None) -> None:
        super().__init__()
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule must be a function or None. Received: {schedule=}")
        self.schedule = schedule

    def on_train_begin(self, logs: Logs = None) -> None:
        self._task_heads()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self.schedule is not None:
            heads = self._task_heads()
            factors = {
                task: check_number(self.schedule(task, epoch), f"schedule({task!r}, {epoch})", 0)
                for task in heads.trained_tasks
            }
            heads.multiply_loss_weights(factors)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        weights = self._task_heads().loss_weights()
        logs.update({f"loss_weight/{task}": weight for task, weight in weights.items()})

    def _task_heads(self) -> TaskHeads:
        # Access to self.model in every hook would update the variables on JAX.
        found = find_layers(self.model, TaskHeads)
        loss = getattr(self.model, "loss", None)
        if len(found) != 1 or loss is not None:
            raise ValueError(
                "LossWeightSchedule needs a model that is trained by its TaskHeads, such as a "
                f"MultiTaskModel. Received: model={self.model!r}, model.loss={loss!r}"
            )
        return found[0]
