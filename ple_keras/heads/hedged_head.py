"""The head of a task with branches of features."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_keys
from ple_keras._keras.base_layer import BaseLayer
from ple_keras._keras.copying import checked_copy
from ple_keras._keras.registration import register
from ple_keras._keras.tensors import all_valid, to_numpy
from ple_keras._keras.walking import Untracked
from ple_keras._typing import ByName, Shape, Tensor
from ple_keras.heads.head import Head
from ple_keras.labels.label_statistics import LabelStatistics

# Activations whose inputs are mixed, not their outputs.
MIXED_BEFORE = (
    keras.activations.sigmoid,
    keras.activations.softmax,
    keras.activations.exponential,
)


@register
class HedgedHead(Head):
    """A head for each branch of a task, and the mixture of their predictions.

    TaskHeads makes it from the task's head if its features are those of a HedgedBlock. The logits
    of probabilities and counts are mixed, and all other predictions themselves, so that a squared
    error is convex in the mixture.

    Args:
        head: The task's head, unbuilt, a template: each branch has a copy.
        branches: The names of the branches. Their order is alphabetical, since dicts of features
            have other orders on other backends.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: The features of the task, `{branch: (..., H)}`.

    Raises:
        ValueError: If the head is built, computes its predictions in another way, or has an
            activity regularizer.
    """

    def __init__(self, head: Head, branches: Iterable[str], **kwargs: Any) -> None:
        _check_template(head)
        super().__init__(
            head.task,
            head.units,
            head.activation,
            head.loss,
            loss_weight=head.loss_weight,
            missing_label=head.missing_label,
            reduction=head.reduction,
            **{
                "name": head.name,
                "trainable": head.trainable,
                "dtype": head.dtype_policy,
                **kwargs,
            },
        )
        self._template = Untracked(head)
        self._branch_names = tuple(sorted(branches))
        self._label_share = head.label_share
        for branch in self._branch_names:
            argument, name = f"heads[{head.task!r}]", f"{head.name}-{branch}"
            copy = checked_copy(head, argument, name, branch)
            setattr(self, _branch_attribute(branch), copy)

    @property
    def branch_names(self) -> list[str]:
        """The branches whose predictions the head mixes, in alphabetical order."""
        return list(self._branch_names)

    def branch_weights(self) -> dict[str, float]:
        """Return the weight of each branch in the mixture; the head must be built.

        Returns:
            Floats by branch that sum to 1.
        """
        return dict(zip(self._branch_names, map(float, to_numpy(self.mixture))))

    def _branch_heads(self) -> list[Any]:  # not a property: Keras's saving would read it
        return [getattr(self, _branch_attribute(branch)) for branch in self._branch_names]

    def _plain(self) -> Any:
        """Return a head of a branch, which has the attributes of the task's head."""
        return self._branch_heads()[0]

    @property
    def mean(self) -> list[float] | None:
        """The mean of the labels of each unit, as of a RegressionHead."""
        mean: list[float] | None = self._plain().mean
        return mean

    @property
    def deviation(self) -> list[float] | None:
        """The standard deviation of the labels of each unit, as of a RegressionHead."""
        deviation: list[float] | None = self._plain().deviation
        return deviation

    def build(self, input_shape: Any) -> None:
        check_keys(input_shape, self._branch_names, f"inputs[{self.task!r}]")
        for branch, head in zip(self._branch_names, self._branch_heads()):
            if self._template.value._statistics.value:
                head._adapt(self._template.value._statistics.value)
            if not head.built:
                head.build(input_shape[branch])
        self._leading_axes = self._plain()._leading_axes
        self.mixture = self.add_weight(
            name="mixture",
            shape=(len(self._branch_names),),
            initializer=keras.initializers.Constant(1 / len(self._branch_names)),
            dtype="float32",
            autocast=False,
            trainable=False,
        )
        self._restore_frozen()

    def _branch_logits(self, features: ByName) -> list[Tensor]:
        check_keys(features, self._branch_names, f"inputs[{self.task!r}]")
        heads = zip(self._branch_names, self._branch_heads())
        return [head.logits(features[branch]) for branch, head in heads]

    def branch_values(self, features: ByName) -> list[Tensor]:
        """Return what the head mixes, of each branch: logits, or predictions.

        Args:
            features: The task's features, `{branch: (..., H)}`.
        """
        logits = self._branch_logits(features)
        return logits if self._mixes_logits() else [*map(self._prediction, logits)]

    def _mixes_logits(self) -> bool:
        return self.activation in MIXED_BEFORE

    def branch_predictions(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the prediction of each branch, from `branch_values`."""
        return [*map(self._prediction, values)] if self._mixes_logits() else list(values)

    def mixed(self, values: Sequence[Tensor]) -> Tensor:
        """Return the mixture of `branch_values`."""
        mixture = ops.cast(self.mixture, values[0].dtype)
        return reduce(ops.add, [mixture[i] * value for i, value in enumerate(values)])

    def prediction(self, mixed: Tensor) -> Tensor:
        """Return the prediction of a mixture from `mixed`."""
        return self._prediction(mixed) if self._mixes_logits() else mixed

    def _prediction(self, logits: Tensor) -> Tensor:
        prediction: Tensor = self._plain()._prediction(logits)
        return prediction

    def logits(self, features: ByName) -> Tensor:
        """Return the mixture of the logits of the branches.

        Args:
            features: As for `branch_values`.
        """
        return self.mixed(self._branch_logits(features))

    def call(self, inputs: ByName, training: bool | None = None) -> Tensor:
        """Return the predictions of the task."""
        return self.prediction(self.mixed(self.branch_values(inputs)))

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        losses: Tensor = self._plain().example_losses(y_true, y_pred)
        return losses

    def _loss_name(self) -> str:
        return str(self._plain()._loss_name())

    def _label_width(self) -> int | None:
        width: int | None = self._plain()._label_width()
        return width

    def _logs_loss_mean(self) -> bool:
        return bool(self._plain()._logs_loss_mean())

    def _new_metrics(self, prefix: str) -> list[keras.Metric]:
        metrics: list[keras.Metric] = self._template.value._new_metrics(prefix)
        return metrics

    def _check_values(self, labels: Tensor) -> None:
        self._plain()._check_values(labels)

    def _adapt(self, statistics: LabelStatistics) -> None:
        super()._adapt(statistics)
        for head in [self._template.value, *self._branch_heads()]:
            head._adapt(statistics)

    def compute_mask(self, inputs: ByName, previous_mask: Any) -> Tensor:
        """Return the mask of the prediction, which is valid where all branches are."""
        return all_valid(previous_mask.values()) if isinstance(previous_mask, Mapping) else None

    def compute_output_shape(self, input_shape: Shape | Mapping[str, Shape]) -> Shape:
        return super().compute_output_shape(first_branch(input_shape))

    def compute_output_spec(self, inputs: ByName, training: bool | None = None) -> Any:
        return super().compute_output_spec(first_branch(inputs))

    def get_config(self) -> dict[str, Any]:
        return {
            **BaseLayer.get_config(self),
            "label_share": self.label_share,
            "head": keras.saving.serialize_keras_object(self._template.value),
            "branches": self.branch_names,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        head = keras.saving.deserialize_keras_object(config["head"])
        return super().from_config({**config, "head": head})


def plain_head(head: Head) -> Head:
    """Return a head itself, and of a HedgedHead the head of a branch, of the task's class."""
    return head._plain() if isinstance(head, HedgedHead) else head


def first_branch(value: Any) -> Any:
    """Return the value of the first branch, or a value without branches."""
    return next(iter(value.values())) if isinstance(value, Mapping) else value


def _branch_attribute(branch: str) -> str:
    """Return the attribute of the head of a branch, part of the file format."""
    return f"branch-{branch}"


def _check_template(head: Head) -> None:
    cls = type(head)
    if cls.call is not Head.call or cls.logits is not Head.logits:
        raise ValueError(
            f"A {cls.__name__} can't mix the branches of a HedgedBlock, since it overrides "
            "call or logits. Leave its task out of the block, and give it features of its own: "
            f"heads({{**hedged(x), {head.task!r}: features}}). Received: head={head!r}"
        )
    if head.built or head.activity_regularizer is not None:
        raise ValueError(
            "A head of the branches of a HedgedBlock must be unbuilt, and have no "
            f"activity_regularizer. Received: head={head!r}, built={head.built}, "
            f"activity_regularizer={head.activity_regularizer!r}"
        )
