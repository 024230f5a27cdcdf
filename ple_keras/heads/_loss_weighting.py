"""The part of TaskHeads that weighs the tasks' losses."""

from collections.abc import Mapping

import keras

from ple_keras._checks import check_known_keys, check_not_negative
from ple_keras._typing import DType, Initializer, Shape, Tensor
from ple_keras.heads.head import Head
from ple_keras.losses.joint_losses import TrainedLoss
from ple_keras.losses.loss_weights import LossWeights


class LossWeighting(keras.Layer):
    """Owns the variables that weigh the tasks' losses."""

    _task_names: tuple[str, ...]

    def _heads(self) -> list[Head]:
        raise NotImplementedError

    def _init_loss_weights(self, loss_weighting: str | None) -> None:
        if loss_weighting not in (None, "uncertainty"):
            raise ValueError(
                'loss_weighting must be None or "uncertainty". '
                f"Received: loss_weighting={loss_weighting!r}"
            )
        self.loss_weighting = loss_weighting
        self._loss_weights = LossWeights()
        self._first_multipliers: Mapping[str, float] = {}

    def _build_loss_weights(self) -> None:
        self._loss_weights.bind(
            self._add_by_task("loss_multipliers", self._initial_multipliers, trainable=False),
            self._add_by_task("log_variances", "zeros") if self.loss_weighting else None,
        )

    def _initial_multipliers(self, shape: Shape, dtype: DType = None) -> Tensor:
        """The multipliers before any other are assigned; within a graph nothing can be."""
        values = [self._first_multipliers.get(task, 1.0) for task in self._task_names]
        return keras.ops.convert_to_tensor(values, dtype)

    def _add_by_task(
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
        """What multiplies each task's loss now; the layer must be built.

        `w_{k,0}`, the head's `loss_weight`, times what a callback such as `LossWeightDecay` makes
        of it, and, learned by uncertainty, times `c exp(-s)`.

        Returns:
            A float for each task that has a loss.
        """
        if not self.built:
            raise ValueError(f"{self.name!r} must be built. Received: built=False")
        return {
            head.task: head.loss_weight * self._loss_weights.in_force(index, head.loss)
            for index, head in enumerate(self._heads())
            if head.has_loss
        }

    def multiply_loss_weights(self, multipliers: Mapping[str, float]) -> None:
        """Let each task's loss weigh its fixed weight times the given multiplier, from now on.

        For callbacks, in `on_epoch_begin`; the multipliers are saved with the model.

        Args:
            multipliers: Finite numbers of at least 0, by task; a task that is left out keeps its
                fixed weight.

        Raises:
            TypeError: if a multiplier is no number.
            ValueError: if it is negative or not finite, or a task has no loss or is unknown.
        """
        check_known_keys(multipliers, self.trained_tasks, "multipliers")
        multipliers = {
            task: check_not_negative(multiplier, f"multipliers[{task!r}]")
            for task, multiplier in multipliers.items()
        }
        if self._loss_weights.multipliers is None:  # TensorFlow's first epoch comes before `build`
            self._first_multipliers = multipliers
            return
        values = [multipliers.get(task, 1.0) for task in self._task_names]
        self._loss_weights.multipliers.assign(values)

    def is_used_by(self, loss: object) -> bool:
        """Whether a loss, as `Model.compile` was given it, reads its weight from this layer."""
        return any(
            isinstance(one, TrainedLoss) and one.belongs_to(self._loss_weights)
            for one in keras.tree.flatten(loss)
        )
