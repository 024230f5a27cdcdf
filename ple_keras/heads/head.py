"""A head: the prediction, the loss and the metrics of a task."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import (
    check_activation,
    check_features,
    check_int,
    check_number,
    check_width,
)
from ple_keras._keras.building import build_on
from ple_keras._keras.internals import call_keeping_masks, serialize_loss
from ple_keras._keras.layers import BaseLayer, Untracked
from ple_keras._keras.names import stable_name
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import HALF_DTYPES, dtype_name
from ple_keras._typing import (
    Activation,
    Config,
    LayerLike,
    LossLike,
    LossReduction,
    MetricLike,
    Shape,
    Tensor,
)
from ple_keras.families.family import Family, Multiclass, Power, Regression
from ple_keras.labels.label_arrays import (
    LabelStatistics,
    check_values,
    warn_if_constant,
    warn_if_targets_are_constant,
)
from ple_keras.labels.sample_space import (
    LabeledExamples,
    all_missing_labels,
    check_missing_label,
    check_shape,
    find_labeled,
    is_missing,
    to_config,
    to_number_array,
)
from ple_keras.labels.task_names import check_task_name
from ple_keras.layers.template import as_optional_template
from ple_keras.losses.example_losses import check_loss, check_reduction, example_losses
from ple_keras.losses.loss_kinds import CLASS_INDICES, check_for_loss, is_elementwise, loss_name
from ple_keras.metrics.masked_metric import check_metrics, update_metric

# Activations of logits. Branches mix logits, and losses must not apply an activation again.
LOGIT_ACTIVATIONS = [keras.activations.get(name) for name in ("sigmoid", "softmax", "exponential")]


@register
class Head(BaseLayer):
    """The output layers of a task: `activation(W tower(x_k) + b)`, `(..., H) -> (..., units)`.

    This is the base class of all heads. The output is float32 or wider under every dtype policy.
    The loss and the metrics are computed over labeled examples (see `MultiTaskModel`). A subclass
    with a custom loss overrides `example_losses`. Other predictions override `logits` or `call`.

    Args:
        task: The task's name (see `TaskHeads`).
        units: The width of the prediction.
        activation: The activation of the prediction: a name, a function, or None for linear.
        loss: The task's loss: a name, a function or a `keras.losses.Loss`. If None, the task is
            not trained.
        metrics: The metrics of a task with a loss: a sequence of names, functions or Metric
            objects, which are copied. If None, the metric is the mean of the loss over all labeled
            examples of an epoch. If empty, there are no metrics. Metrics count each labeled example
            once, regardless of its sample weight.
        tower: The task's own network before the last Dense layer: an int, a sequence of ints or a
            layer. Ints are the units of an ExpertBlock. A layer is copied.
        loss_weight: The weight of the task's loss, at least 0.
        missing_label: The value of a missing label, in addition to NaN. Single numbers of a label
            can be missing if the loss is the mean of their losses (see `MaskedLoss`).
        reduction: None for the mean of the loss over the labeled examples of a batch,
            "sum_over_batch_size" to divide its sum by the batch size, "label_root" to divide it
            by the square root of the product of both numbers, or "by_target" for the mean over the
            numbers of a label of the means over their labeled examples (see `MaskedLoss`).
        extra_metrics: Metrics in addition to `metrics` or the default ones, in the same forms. If
            the name of a metric is taken, it gets a number: `auc_1`.
        **kwargs: Keras's layer arguments; `name` is `{task}_head` by default.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The prediction, `(..., units)`, at least float32.

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If `task` is not a valid name, `units` is below 1, `loss` or `reduction` is
            unknown, "by_target" is used with a custom loss, `loss` is for logits but `activation`
            is a sigmoid, a softmax or an exponential, `loss_weight` is negative or not finite, or
            `tower` can't be copied.

    Example:

    >>> @keras.saving.register_keras_serializable()
    ... class CappedHead(Head):
    ...     def __init__(self, task, loss="mean_squared_error", **kwargs):
    ...         super().__init__(task, loss=loss, **kwargs)
    ...
    ...     def example_losses(self, y_true, y_pred):
    ...         return keras.ops.minimum(super().example_losses(y_true, y_pred), 100.0)
    >>> tuple(CappedHead("minutes", tower=[16])(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    built: bool
    _fixed: tuple[str, ...] = ("task", "units")
    _set_by_class: tuple[str, ...] = ()  # arguments of this class that a subclass does not take
    targets: list[str] | None = None  # the names of the numbers of a label
    _initial_bias: Any = 0.0  # bias of the last Dense layer
    _own_family: Family | None = None  # None if the loss and the activation determine the family

    def __init__(
        self,
        task: str,
        units: int = 1,
        activation: Activation = None,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        tower: LayerLike | None = None,
        loss_weight: float = 1.0,
        missing_label: float = math.nan,
        reduction: LossReduction | None = None,
        extra_metrics: Sequence[MetricLike] | None = None,
        **kwargs: Any,
    ) -> None:
        self.task = check_task_name(task, "task")
        super().__init__(**{"name": f"{task}_head", **kwargs})
        self.supports_masking = True
        self.units = check_int(units, "units", minimum=1)
        self.activation = check_activation(activation)
        self.loss = check_loss(loss)
        if getattr(self.loss, "from_logits", False) and self.activation in LOGIT_ACTIVATIONS:
            raise ValueError(f"loss must have from_logits=False. Received: {loss=}, {activation=}")
        own = None if metrics is None else check_metrics(metrics)
        extra = check_metrics(extra_metrics, "extra_metrics")
        self._metric_templates = Untracked((own, extra))
        self.loss_weight = check_number(loss_weight, "loss_weight", minimum=0)
        self.missing_label = check_missing_label(missing_label)
        self.reduction = check_reduction(reduction, self.loss)
        self._tower_template = as_optional_template(tower, "tower", self.dtype_policy)
        self._leading_axes: tuple[int | None, ...] = (None,)
        self._statistics: Untracked[LabelStatistics | None] = Untracked(None)
        self._copies: Untracked[list[Head]] = Untracked([])

    def build(self, input_shape: Shape) -> None:
        shape = check_features(input_shape)
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: shape[-1]})
        self._leading_axes = (None,) * (len(shape) - 1)
        # `_tower` and `_projection` are names in the file format.
        if self._tower_template:
            self._tower = self._tower_template.copy("tower", self.task)
            shape = (*shape[:-1], build_on(self._tower, shape, self.compute_dtype, "tower"))
        bias = keras.initializers.Constant(self._initial_bias)
        dtype = "float32" if self.compute_dtype in HALF_DTYPES else self.dtype_policy
        self._projection = keras.layers.Dense(
            self.units, bias_initializer=bias, dtype=dtype, name="projection"
        )
        self._projection.build(shape)
        self._restore_frozen()

    def _add_copies(self, copies: Sequence["Head"]) -> None:
        """From now on, adapt and freeze copies of the head together with it."""
        self._copies.value.extend(copies)
        if (statistics := self._statistics.value) is not None:
            for copy in copies:
                copy._adapt(statistics)

    @property
    def trainable(self) -> bool:
        return bool(super().trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.Layer.trainable.fset(self, value)
        for copy in self._copies.value:
            copy.trainable = value

    def _activate(self, logits: Tensor) -> Tensor:
        """Return the prediction from the logits. A subclass can override it."""
        return self.activation(logits)

    def _mixes_logits(self) -> bool:
        """Return whether logits of the head are mixed, instead of predictions."""
        return self.activation in LOGIT_ACTIVATIONS and type(self).call is Head.call

    def _logits_or_prediction(self, features: Tensor, training: bool | None = None) -> Tensor:
        """Return the logits if the head mixes logits, else the prediction."""
        if type(self).call is not Head.call:
            return self(features, training=training)
        logits = self.logits(features)
        return logits if self._mixes_logits() else self._activate(logits)

    def _predict(self, value: Tensor) -> Tensor:
        """Return the prediction from a result of `_logits_or_prediction`, or from their mixture."""
        return self._activate(value) if self._mixes_logits() else value

    def logits(self, features: Tensor) -> Tensor:
        """Return the prediction before the activation; the head must be built.

        Args:
            features: The task's features, `(..., H)`.

        Returns:
            `(..., units)`, at least float32.
        """
        if self._tower_template:
            features = call_keeping_masks(self._tower, features)
        return self._projection(features)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the predictions of the task."""
        return self._activate(self.logits(inputs))

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each example, or of each number of its label.

        TaskHeads omits the losses of missing labels, applies `reduction`, and multiplies the result
        by the loss weight. A subclass overrides this method to change the loss. The loss of an
        example must depend only on that example.

        Args:
            y_true: Labels `(...)`, `(..., 1)` or `(..., units)`, in the dtype of the predictions.
                A missing label is replaced by 1, and its prediction by 0.5.
            y_pred: Predictions `(..., units)`.

        Returns:
            `(...)`, or `(..., units)` if each number of a label has a loss and can be missing.
        """
        return example_losses(self.loss, y_true, y_pred)

    def _loss_name(self) -> str:
        """Return the name of the mean of the loss in logs."""
        return stable_name(self.loss)

    @property
    def has_loss(self) -> bool:
        """Whether the task has a loss and is trained."""
        return self.loss is not None

    @property
    def label_share(self) -> float | None:
        """The share of rows with a label, from `TaskHeads.adapt`; None before it and after loading.

        If single numbers of a label are missing, it is the mean of their shares.
        """
        statistics = self._statistics.value
        return None if statistics is None else float(np.mean(statistics.labels) / statistics.rows)

    def _adapt(self, statistics: LabelStatistics) -> None:
        """Store the statistics of the labels (see `TaskHeads.adapt`)."""
        self._statistics.value = statistics
        for copy in self._copies.value:
            copy._adapt(statistics)

    def _find_labeled(self, y_true: Tensor, y_pred: Tensor) -> LabeledExamples:
        """Return the labels and predictions of a batch, and which are in the sample space."""
        where, missing = f" of {self.task!r}", all_missing_labels(self.missing_label, self.loss)
        width, are_finite = self._label_width(), self._predicts_finite()
        return find_labeled(y_true, y_pred, missing, width, where, are_finite)

    def _predicts_finite(self) -> bool:
        """Return whether predictions for finite features are finite, like probabilities."""
        return self.activation is LOGIT_ACTIVATIONS[0] and type(self).call is Head.call

    def _family(self) -> Family:
        """Return what the labels are, for reports and mixtures."""
        if self._own_family is not None:
            return self._own_family
        if self.activation is LOGIT_ACTIVATIONS[1]:
            return Multiclass()
        return Power(1.0) if loss_name(self.loss) == "poisson" else Regression()

    def _row_family(self) -> Family | None:
        """Return the family whose row losses suit the loss, for gains; None for other losses."""
        if self._own_family is not None:
            return None if self._own_family.is_list else self._own_family
        known = {"mean_squared_error": Regression(), "poisson": Power(1.0)}
        return known.get(loss_name(self.loss))

    def _loss_unit(self) -> float:
        """Return the number by which standardization divides the loss."""
        return 1.0

    def _label_width(self) -> int | None:
        """Return the length of a label's last axis; None if unknown, as for custom losses."""
        name = loss_name(self.loss)
        return None if not name else 1 if name in CLASS_INDICES else self.units

    def _default_metrics(self) -> list[MetricLike]:
        """Return the templates of the default metrics, without the mean of the loss."""
        return []

    def _logs_loss_mean(self) -> bool:
        """Return whether the mean of the loss is a metric of the head."""
        return self.has_loss and self._metric_templates.value[0] is None

    def _named_metrics(self) -> list[tuple[str, MetricLike, bool]]:
        """Return the names and templates of the metrics, and whether each is a default one.

        The mean of the loss is omitted.
        """
        own, extra = self._metric_templates.value
        defaults = self._default_metrics() if own is None else []
        names = ["loss", f"{self.task}_loss"]
        if self._logs_loss_mean():
            names.append(self._loss_name())
        named: list[tuple[str, MetricLike, bool]] = []
        for template in [*defaults, *(own or []), *extra]:
            name = stable_name(template)
            numbered = (f"{name}_{i}" for i in range(1, len(names) + 1))
            names.append(next(free for free in (name, *numbered) if free not in names))
            named.append((names[-1], template, len(named) < len(defaults)))
        return named

    def _update_metric(self, metric: keras.Metric, labeled: LabeledExamples) -> None:
        """Update a metric with examples, whose predictions have no gradient."""
        update_metric(metric, labeled, where=f" of {metric.name!r}")

    def check_labels(self, labels: Tensor) -> None:
        """Check an array of labels before training.

        Args:
            labels: `(...)`, `(..., 1)` or `(..., units)`. The leading axes are the batch and, if
                the head is built, the other axes of its features.

        Raises:
            TypeError: If labels are not numbers.
            ValueError: If labels have a wrong shape, or values that the task or its loss does not
                allow, such as negative counts for "poisson".

        Warns:
            UserWarning: As for `TaskHeads.check_labels`.
        """
        present, _ = self._present_labels(labels)
        if len(present) and self.units > 1 and is_elementwise(self.loss):
            warn_if_targets_are_constant(present, self.task, self._target_names())
        else:
            warn_if_constant(present, self.task)
        self._check_values(present)

    def _target_names(self) -> list[str]:
        """Return the names of the numbers of a label: by default, their positions."""
        return list(self.targets or map(str, range(self.units)))

    def _present_labels(self, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels that are not missing, `(labels, width)`, and True for each of them.

        If single numbers of a label can be missing, they are NaN in the result.

        Raises:
            TypeError: If `labels` are not numbers.
            ValueError: If their shape is wrong, or one is infinite.
        """
        argument, shape = f"y[{self.task!r}]", (*self._leading_axes, self.units)
        array = to_number_array(labels, argument)
        check_shape(array.shape, shape, self._label_width(), argument)
        if array.dtype == "int64":
            limits = np.iinfo(dtype_name(ops.convert_to_tensor(array[:0])))  # int32 on JAX
            rule = f"lie between {limits.min} and {limits.max} on this backend"
            check_values(array, (array < limits.min) | (array > limits.max), self.task, rule)
        if array.ndim < len(shape):
            array = array[..., None]
        is_float = "float" in str(array.dtype)
        stored = array.astype("float32", copy=False) if is_float else array  # a cast of Keras
        missing = is_missing(stored, all_missing_labels(self.missing_label, self.loss))
        if missing is None:
            missing = np.zeros(array.shape, bool)
        by_number = is_elementwise(self.loss)
        if by_number and missing.any() and not (is_float and math.isnan(self.missing_label)):
            array = np.where(missing, np.nan, array)
        is_labeled = ~(missing.all(axis=-1) if by_number else missing.any(axis=-1))
        width = array.shape[-1]
        present = array.reshape(-1, width) if is_labeled.all() else array[is_labeled]
        check_values(present, np.isinf(present), self.task, "be finite")
        return present, is_labeled

    def _check_values(self, labels: Tensor) -> None:
        """Check the values of labels `(labels, width)`, without missing and ignored ones."""
        if self._own_family is None:
            check_for_loss(labels, self.task, self.loss, self.units)
        else:
            self._own_family.check_labels(labels, self.task, self.units)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.input_spec is not None:
            check_width(inputs.shape, self.input_spec.axes[-1], f"inputs[{self.task!r}]")
        dtype = "float32" if self.compute_dtype in HALF_DTYPES else self.compute_dtype
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=dtype)

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        own, extra = self._metric_templates.value
        config = {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "loss": serialize_loss(self.loss),
            "metrics": own and [*map(serialize, own)],
            "extra_metrics": [*map(serialize, extra)],
            "tower": self._tower_template and self._tower_template.serialize(),
            "loss_weight": self.loss_weight,
            "missing_label": to_config(self.missing_label),
            "reduction": self.reduction,
        }
        return {key: x for key, x in config.items() if key not in self._set_by_class}
