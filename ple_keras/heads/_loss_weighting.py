"""The loss weights of a TaskHeads."""

from collections.abc import Mapping

import keras

from ple_keras._checks import check_known_keys, check_not_negative
from ple_keras._typing import ByName, DType, Initializer, LearnedWeighting, Shape, Tensor
from ple_keras.heads._heads_by_task import HeadsByTask
from ple_keras.heads._joint_loss import joint_loss
from ple_keras.losses.joint_losses import TrainedLoss
from ple_keras.losses.loss_weights import LossWeights


class LossWeighting(HeadsByTask):
    """A base class that owns the variables that weigh the tasks' losses."""

    def _init_loss_weights(self, loss_weighting: LearnedWeighting | None) -> None:
        if loss_weighting not in (None, "uncertainty"):
            raise ValueError(
                'loss_weighting must be None or "uncertainty". '
                f"Received: loss_weighting={loss_weighting!r}"
            )
        self.loss_weighting = loss_weighting
        self._loss_weights = LossWeights()
        self._multipliers_before_build: Mapping[str, float] = {}

    def _build_loss_weights(self) -> None:
        self._loss_weights.bind(
            self._add_task_weights("loss_multipliers", self._initial_multipliers, trainable=False),
            self._add_task_weights("log_variances", "zeros") if self.loss_weighting else None,
        )

    def _initial_multipliers(self, shape: Shape, dtype: DType = None) -> Tensor:
        """Return the initial multipliers. A graph can't assign them after `build`."""
        values = [self._multipliers_before_build.get(task, 1.0) for task in self._task_names]
        return keras.ops.convert_to_tensor(values, dtype)

    def _add_task_weights(
        self, name: str, initializer: Initializer, trainable: bool = True
    ) -> keras.Variable:
        return self.add_weight(
            shape=(len(self._task_names),),
            initializer=initializer,
            dtype="float32",
            trainable=trainable,
            autocast=False,
            name=name,
        )

    @property
    def trained_tasks(self) -> list[str]:
        """The tasks that have a loss, in order."""
        return [head.task for head in self._heads() if head.has_loss]

    def loss_weights(self) -> dict[str, float]:
        """Return the current weight of each task's loss; the layer must be built.

        The weight is `w_{k,0}`, the head's `loss_weight`, times the multiplier from a callback such
        as `LossWeightDecay`. If learned by uncertainty, it is also multiplied by `c exp(-s)`.

        Returns:
            A dict with a float for each task that has a loss.
        """
        self._check_built()
        return {
            head.task: head.loss_weight * self._loss_weights.current_factor(index, head.loss)
            for index, head in enumerate(self._heads())
            if head.has_loss
        }

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError(f"{self.name!r} must be built. Received: built=False")

    def multiply_loss_weights(self, multipliers: Mapping[str, float]) -> None:
        """Multiply the fixed weight of each task's loss by a multiplier, from now on.

        Callbacks call this in `on_epoch_begin`. The multipliers are saved with the model.

        Args:
            multipliers: Finite numbers of at least 0, by task. An omitted task has the multiplier
                1.

        Raises:
            TypeError: If a multiplier is not a number.
            ValueError: If a multiplier is negative or not finite, or a task is unknown or has no
                loss.
        """
        check_known_keys(multipliers, self.trained_tasks, "multipliers")
        multipliers = {
            task: check_not_negative(multiplier, f"multipliers[{task!r}]")
            for task, multiplier in multipliers.items()
        }
        if self._loss_weights.multipliers is None:  # TensorFlow builds after `on_epoch_begin`
            self._multipliers_before_build = multipliers
            return
        values = [multipliers.get(task, 1.0) for task in self._task_names]
        self._loss_weights.multipliers.assign(values)

    def compute_loss(
        self, y: ByName, y_pred: ByName, sample_weight: ByName | None = None
    ) -> Tensor:
        """Return the training loss of all tasks, for a custom training loop.

        The loss is the sum of `w_k(t) L_k` over the tasks, with the current weights and the means
        over labelled examples. It is the loss that `fit` minimizes with `compile_kwargs()`, without
        regularization: add `sum(model.losses)`. The model need not be compiled.

        In a function that JAX transforms, such as by `jax.grad` or `jax.jit`, call it in a
        `keras.StatelessScope` with the values of the model's variables. Otherwise, variables are
        constants: a compiled step ignores later multipliers, and learned weights are refused.

        Args:
            y: `{task: labels}`, with each task that has a loss.
            y_pred: `{task: predictions}`, as returned by the layer. Other keys are ignored.
            sample_weight: `{task: weights of the examples}`. An omitted task has the weight 1.

        Returns:
            A scalar.

        Raises:
            TypeError: If an argument is not a dict by task, or labels are not numbers.
            ValueError: If the layer is not built, no task has a loss, a task is missing or unknown,
                a shape does not match, or the predictions are of another TaskHeads. Also if learned
                weights are constants of a JAX trace.

        Example:

        >>> heads = TaskHeads([RegressionHead("a"), RegressionHead("b", loss_weight=0.5)])
        >>> predictions = heads({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))})
        >>> y = {"a": [1.0, float("nan")], "b": [2.0, 2.0]}
        >>> float(heads.compute_loss(y, predictions))
        3.0
        """
        self._check_built()
        return joint_loss(self._heads(), self._loss_weights, y, y_pred, sample_weight)

    def store_epoch_logs(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Store the logs of an epoch, which are saved with the model.

        The callback `LossWeightSchedule` calls this in `on_epoch_end`.

        Args:
            epoch: The epoch, from 0.
            logs: Numbers by key.
        """
        self._loss_weights.add_epoch_logs(epoch, logs)

    def epoch_logs(self, epoch: int) -> list[dict[str, float]]:
        """Return the stored logs of the two epochs before an epoch, the older first.

        Args:
            epoch: The epoch, from 0.

        Returns:
            A list of up to two dicts. It is empty in epoch 0, and if the logs of the epoch before
            are not known.
        """
        logs = self._loss_weights.epoch_logs
        epochs = (epoch - 2, epoch - 1) if epoch - 1 in logs else ()
        return [dict(logs[before]) for before in epochs if before in logs]

    def is_used_by(self, loss: object) -> bool:
        """Return whether a `loss` of `Model.compile` reads its weights from this layer.

        Args:
            loss: The argument of `compile`, such as `model.loss`.
        """
        return any(
            isinstance(part, TrainedLoss) and part.belongs_to(self._loss_weights)
            for part in keras.tree.flatten(loss)
        )
