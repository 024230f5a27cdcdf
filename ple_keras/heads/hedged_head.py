"""The head of a task with branches of features."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_keys
from ple_keras._keras.copying import checked_copy
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import ByName, Tensor
from ple_keras.heads.head import OF_LOGITS, Head
from ple_keras.labels.label_arrays import LabelStatistics


class HedgedHead(Head):
    """A head for each branch of a task, and the mixture of their predictions.

    TaskHeads creates it from the task's head if the features come from a HedgedBlock. It mixes the
    logits of probabilities and counts, and all other predictions themselves, so that a squared
    error is convex in the mixture. `plain_head` defines the rules of the task, such as its metrics.

    Args:
        head: The task's unbuilt head, which is copied for each branch.
        branches: The names of the branches. They are sorted, since the order of dicts of features
            depends on the backend.

    Call arguments:
        inputs: The features of the task, `{branch: (..., H)}`.

    Raises:
        ValueError: If the head is built, overrides `call` or `logits`, or has an activity
            regularizer.
    """

    def __init__(self, head: Head, branches: Iterable[str]) -> None:
        cls = type(head)
        is_overridden = cls.call is not Head.call or cls.logits is not Head.logits
        if is_overridden or head.built or head.activity_regularizer is not None:
            raise ValueError(
                "A head for the branches of a HedgedBlock must be unbuilt, without an "
                "activity_regularizer, and must not override call or logits. Omit its task from "
                f"the block, and pass its features separately: heads({{**hedged(x), {head.task!r}: "
                f"features}}). Received: head={head!r}, built={head.built}"
            )
        super().__init__(
            head.task,
            head.units,
            head.activation,
            loss_weight=head.loss_weight,
            missing_label=head.missing_label,
            reduction=head.reduction,
            name=head.name,
            trainable=head.trainable,
            dtype=head.dtype_policy,
        )
        self.loss = head.loss
        self.branch_names = tuple(sorted(branches))
        self._mixes_logits = self.activation in OF_LOGITS  # instead of predictions
        for branch in self.branch_names:
            argument, name = f"heads[{head.task!r}]", f"{head.name}-{branch}"
            copy = checked_copy(head, argument, name, branch)
            setattr(self, _branch_attribute(branch), copy)
        statistics = head._statistics.value
        if statistics:
            self._adapt(statistics)

    def branch_weights(self) -> dict[str, float]:
        """Return the weight of each branch in the mixture; the head must be built.

        Returns:
            A dict of floats keyed by branch, which sum to 1.
        """
        return dict(zip(self.branch_names, map(float, to_numpy(self.mixture))))

    def _branch_heads(self) -> list[Any]:  # not a property: Keras's saving would read it
        return [getattr(self, _branch_attribute(branch)) for branch in self.branch_names]

    @property
    def mean(self) -> Any:
        """The mean of the labels of each unit, as in RegressionHead."""
        return plain_head(self).mean

    @property
    def deviation(self) -> Any:
        """The standard deviation of the labels of each unit, as in RegressionHead."""
        return plain_head(self).deviation

    def build(self, input_shape: Any) -> None:
        check_keys(input_shape, self.branch_names, f"inputs[{self.task!r}]")
        for branch, head in zip(self.branch_names, self._branch_heads()):
            head.build(input_shape[branch])
        self.mixture = self.add_weight(
            name="mixture",
            shape=(len(self.branch_names),),
            initializer=keras.initializers.Constant(1 / len(self.branch_names)),
            dtype="float32",
            autocast=False,
            trainable=False,
        )

    def branch_values(self, features: ByName) -> list[Tensor]:
        """Return the logits or predictions of each branch, which the head mixes.

        Args:
            features: The task's features, `{branch: (..., H)}`.
        """
        check_keys(features, self.branch_names, f"inputs[{self.task!r}]")
        heads = dict(zip(self.branch_names, self._branch_heads()))
        logits = [head.logits(features[branch]) for branch, head in heads.items()]
        return logits if self._mixes_logits else [*map(plain_head(self)._prediction, logits)]

    def branch_predictions(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the prediction of each branch, from `branch_values`."""
        return [*map(self.prediction, values)]

    def mixed(self, values: Sequence[Tensor]) -> Tensor:
        """Return the mixture of `branch_values`."""
        mixture = ops.cast(self.mixture, values[0].dtype)
        return reduce(ops.add, [mixture[i] * value for i, value in enumerate(values)])

    def prediction(self, mixed: Tensor) -> Tensor:
        """Return the prediction of a mixture from `mixed`."""
        return plain_head(self)._prediction(mixed) if self._mixes_logits else mixed

    def call(self, inputs: ByName, training: bool | None = None) -> Tensor:
        """Return the predictions of the task."""
        return self.prediction(self.mixed(self.branch_values(inputs)))

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return plain_head(self).example_losses(y_true, y_pred)

    def _adapt(self, statistics: LabelStatistics) -> None:
        super()._adapt(statistics)
        for head in self._branch_heads():
            head._adapt(statistics)


def plain_head(head: Head) -> Any:
    """Return a head, or for a HedgedHead the head of its first branch, of the task's class."""
    return head._branch_heads()[0] if isinstance(head, HedgedHead) else head


def first_branch(value: Any) -> Any:
    """Return the value of the first branch, or a value without branches."""
    return next(iter(value.values())) if isinstance(value, Mapping) else value


def _branch_attribute(branch: str) -> str:
    """Return the attribute of the head of a branch, part of the file format."""
    return f"branch-{branch}"
