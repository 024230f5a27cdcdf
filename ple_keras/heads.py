"""Heads: from a task's features to its prediction, with its loss and metrics."""

from collections.abc import Sequence
from typing import Any

import keras

from ple_keras._building import Shape, Untracked, build_on, freeze_if_frozen
from ple_keras._compiling import check_loss, check_metrics, named_copies
from ple_keras._registration import register
from ple_keras._validation import (
    check_activation,
    check_features,
    check_int,
    check_number,
    check_task_name,
    refuse_fixed,
)
from ple_keras.experts import as_template
from ple_keras.metrics import BinaryCrossentropy, LogitAUC

HALF_DTYPES = ("float16", "bfloat16")


@register
class Head(keras.Layer):
    """A task's last layers: `y_k = activation(W tower(x_k) + b)`, `(..., H) -> (..., units)`.

    The base of the heads, made to be subclassed. The output is float32 or wider, whatever the
    dtype policy.

    Args:
        task: The task's name, see `TaskHeads`.
        units: The width of the prediction.
        activation: The activation of the prediction: a name, a function, or None for linear.
        loss: The task's loss: a name, a function or a `keras.losses.Loss`. With None the task is
            not trained.
        metrics: The task's metrics: a sequence of names, functions or `keras.metrics.Metric`
            objects, which serve as templates.
        tower: The task's own network before the last Dense layer: an int or a sequence of ints
            (the units of an ExpertBlock), or a layer, of which the head takes a copy.
        loss_weight: The weight of the task's loss, at least 0.
        **kwargs: Keras's own layer arguments; `name` is `{task}_head` by default.

    Raises:
        TypeError: if an argument is of none of the kinds above.
        ValueError: if `task` is against the rule for names, `units` below 1, `loss` unknown,
            `loss_weight` negative or not finite, or `tower` can't be copied.

    Example:

    >>> @keras.saving.register_keras_serializable()
    ... class CountHead(Head):
    ...     def __init__(self, task, activation="exponential", loss="poisson", **kwargs):
    ...         super().__init__(task, activation=activation, loss=loss, **kwargs)
    >>> tuple(CountHead("visits", tower=[16])(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    def __init__(
        self,
        task: str,
        units: int = 1,
        activation: Any = None,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        tower: Any = None,
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.task = check_task_name(task, "task")
        super().__init__(**{"name": f"{task}_head", **kwargs})
        self.supports_masking = True
        self.units = check_int(units, "units", minimum=1)
        self.activation = check_activation(activation)
        self.loss = check_loss(loss)
        self._metric_templates = Untracked(check_metrics(metrics))
        self.loss_weight = _check_loss_weight(loss_weight)
        self._tower_template = None
        if tower is not None:
            self._tower_template = as_template(tower, "tower", self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        shape = check_features(input_shape)
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: shape[-1]})
        if self._tower_template:
            self._tower = self._tower_template.copy("tower", self.task)
            shape = (*shape[:-1], build_on(self._tower, shape, self.compute_dtype, "tower"))
        self._projection = keras.layers.Dense(
            self.units, dtype=self._output_policy(), name="projection"
        )
        self._projection.build(shape)
        freeze_if_frozen(self)

    def _output_policy(self) -> Any:
        return "float32" if self.compute_dtype in HALF_DTYPES else self.dtype_policy

    def logits(self, features: Any) -> Any:
        """The prediction before the activation; the head must be built.

        Args:
            features: The task's features, `(..., H)`.

        Returns:
            `(..., units)`, at least float32.
        """
        if not self.built:
            raise ValueError(
                f"{self.name!r} must be built or called before its logits can be had. "
                "Received: built=False"
            )
        return self._projection(self._tower(features) if self._tower_template else features)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Predict.

        Args:
            inputs: The task's features, `(..., H)`.
            training: As in Keras; the tower hears of it.

        Returns:
            The prediction, `(..., units)`, at least float32.
        """
        return self.activation(self.logits(inputs))

    def new_metrics(self) -> list[Any]:
        """The task's metrics, new and under explicit names, as `Model.compile` takes them."""
        return named_copies(self._metric_templates.value)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return (*input_shape[:-1], self.units)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        dtype = keras.dtype_policies.get(self._output_policy()).compute_dtype
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "task": self.task,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "loss": serialize(self.loss),
            "metrics": [serialize(metric) for metric in self._metric_templates.value],
            "tower": self._tower_template and self._tower_template.serialize(),
            "loss_weight": self.loss_weight,
        }


@register
class BinaryHead(Head):
    """The probability of a yes: `sigmoid`, `(..., H) -> (..., 1)`.

    The loss is binary cross-entropy. The metrics are `auc`, whose thresholds lie evenly in the
    logit and which therefore holds at low base rates too, and `binary_crossentropy`.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        loss: In place of binary cross-entropy: a loss of probabilities.
        metrics: In place of the metrics above.
        loss_weight: The weight of the task's loss, at least 0.
        **kwargs: Keras's own layer arguments.

    Raises:
        TypeError, ValueError: as `Head`.

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
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(kwargs, "units", "1")
        refuse_fixed(kwargs, "activation", "sigmoid")
        if loss is None:
            loss = keras.losses.BinaryCrossentropy()
        if metrics is None:
            metrics = [LogitAUC(), BinaryCrossentropy()]
        super().__init__(task, 1, "sigmoid", loss, metrics, tower, loss_weight, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return _without(super().get_config(), "units", "activation")


@register
class RegressionHead(Head):
    """A number, or several: linear, `(..., H) -> (..., units)`.

    The loss is the mean squared error, the metric its root, `rmse`.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        units: How many numbers.
        activation: In place of linear, such as "softplus" where targets are positive.
        loss: In place of the mean squared error.
        metrics: In place of the root mean squared error.
        loss_weight: The weight of the task's loss, at least 0.
        **kwargs: Keras's own layer arguments.

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
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if loss is None:
            loss = keras.losses.MeanSquaredError()
        if metrics is None:
            metrics = [keras.metrics.RootMeanSquaredError(name="rmse")]
        super().__init__(task, units, activation, loss, metrics, tower, loss_weight, **kwargs)


@register
class MulticlassHead(Head):
    """The probability of each class: `softmax`, `(..., H) -> (..., num_classes)`.

    The labels are class indices. The loss is sparse categorical cross-entropy; the metrics are
    `accuracy` and `sparse_categorical_crossentropy`.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, as for `Head`.
        num_classes: The number of classes, at least 2.
        loss: In place of sparse categorical cross-entropy: a loss of probabilities.
        metrics: In place of the metrics above.
        loss_weight: The weight of the task's loss, at least 0.
        **kwargs: Keras's own layer arguments.

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
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.num_classes = check_int(num_classes, "num_classes", minimum=2)
        refuse_fixed(kwargs, "units", "num_classes")
        refuse_fixed(kwargs, "activation", "softmax")
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy()
        if metrics is None:
            metrics = [
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                keras.metrics.SparseCategoricalCrossentropy(),
            ]
        super().__init__(task, num_classes, "softmax", loss, metrics, tower, loss_weight, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = _without(super().get_config(), "units", "activation")
        return {**config, "num_classes": self.num_classes}


def _check_loss_weight(loss_weight: Any) -> float:
    weight = check_number(loss_weight, "loss_weight")
    if weight < 0:
        raise ValueError(f"loss_weight must be at least 0. Received: loss_weight={loss_weight!r}")
    return weight


def _without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}
