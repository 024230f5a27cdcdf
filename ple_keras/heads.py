"""The heads of the usual tasks: yes or no, a number, a class."""

from collections.abc import Sequence
from typing import Any

import keras

from ple_keras._label_checks import check_class_indices, check_probabilities
from ple_keras._registration import register
from ple_keras._validation import check_int, refuse_fixed
from ple_keras.head import Head
from ple_keras.losses import PositiveWeightLoss
from ple_keras.metrics import LogitAUC, LossMean


@register
class BinaryHead(Head):
    """The probability of a yes: `sigmoid`, `(..., H) -> (..., 1)`.

    The loss is binary cross-entropy. The metrics are `auc`, whose thresholds lie evenly in the
    logit and which therefore holds at low base rates too, and the mean of the loss,
    `binary_crossentropy` (`weighted_binary_crossentropy` with a `pos_weight`).

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        loss: In place of binary cross-entropy: a loss of probabilities.
        metrics: In place of the metrics above.
        pos_weight: How many times an example with the label 1 counts in the loss. It shifts the
            predicted probabilities: calibrated for the weighted data, the odds are `pos_weight`
            times too high.
        **kwargs: `loss_weight`, `missing_label` and `reduction` as for `Head`, and Keras's own
            layer arguments.

    Raises:
        TypeError, ValueError: as `Head`; and if `pos_weight` is no number above 0.

    Example:

    >>> tuple(BinaryHead("click", tower=[64])(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    def __init__(
        self,
        task: str,
        tower: Any = None,
        *,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        pos_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(kwargs, "units", "1")
        refuse_fixed(kwargs, "activation", "sigmoid")
        if loss is None:
            loss = keras.losses.BinaryCrossentropy()
        self.pos_weight = pos_weight
        if pos_weight is not None:
            loss = PositiveWeightLoss(loss, pos_weight)
        if metrics is None:
            metrics = [LogitAUC(), LossMean(loss)]
        super().__init__(task, 1, "sigmoid", loss, metrics, tower, **kwargs)

    def _check_values(self, labels: Any) -> None:
        check_probabilities(labels, self.task)

    def get_config(self) -> dict[str, Any]:
        config = _without(super().get_config(), "units", "activation")
        if self.pos_weight is not None:
            config["loss"] = keras.saving.serialize_keras_object(self.loss.loss)
        return {**config, "pos_weight": self.pos_weight}


@register
class RegressionHead(Head):
    """A number, or several: linear, `(..., H) -> (..., units)`.

    The loss is the mean squared error; the metrics are its root, `rmse`, and itself,
    `mean_squared_error`.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        units: How many numbers.
        activation: In place of linear, such as "softplus" where targets are positive.
        loss: In place of the mean squared error.
        metrics: In place of the metrics above.
        **kwargs: `loss_weight`, `missing_label` and `reduction` as for `Head`, and Keras's own
            layer arguments.

    Raises:
        TypeError, ValueError: as `Head`.

    Example:

    >>> head = RegressionHead("watch_time", tower=ExpertBlock([64], activation="gelu"))
    >>> tuple(head(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    def __init__(
        self,
        task: str,
        tower: Any = None,
        *,
        units: int = 1,
        activation: Any = None,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if loss is None:
            loss = keras.losses.MeanSquaredError()
        if metrics is None:
            metrics = [keras.metrics.RootMeanSquaredError(name="rmse"), LossMean(loss)]
        super().__init__(task, units, activation, loss, metrics, tower, **kwargs)


@register
class MulticlassHead(Head):
    """The probability of each class: `softmax`, `(..., H) -> (..., num_classes)`.

    The labels are class indices. The loss is sparse categorical cross-entropy; the metrics are
    `accuracy` and the mean of the loss, `sparse_categorical_crossentropy`.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        num_classes: The number of classes, at least 2.
        loss: In place of sparse categorical cross-entropy: a loss of probabilities.
        metrics: In place of the metrics above.
        **kwargs: `loss_weight`, `missing_label` and `reduction` as for `Head`, and Keras's own
            layer arguments.

    Raises:
        TypeError, ValueError: as `Head`; and if `num_classes` is no integer above 1.

    Example:

    >>> tuple(MulticlassHead("category", num_classes=12)(keras.ops.ones((8, 32))).shape)
    (8, 12)
    """

    def __init__(
        self,
        task: str,
        tower: Any = None,
        *,
        num_classes: int,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_classes = check_int(num_classes, "num_classes", minimum=2)
        refuse_fixed(kwargs, "units", "num_classes")
        refuse_fixed(kwargs, "activation", "softmax")
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy()
        if metrics is None:
            metrics = ["accuracy", LossMean(loss)]
        super().__init__(task, num_classes, "softmax", loss, metrics, tower, **kwargs)

    def _check_values(self, labels: Any) -> None:
        if labels.shape[-1] == self.num_classes:  # a probability for each class
            check_probabilities(labels, self.task)
        else:
            check_class_indices(labels, self.task, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        config = _without(super().get_config(), "units", "activation")
        return {**config, "num_classes": self.num_classes}


def _without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}
