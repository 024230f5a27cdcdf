"""Heads: the prediction, loss and metrics of a task."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from typing import Any, ClassVar, cast

import keras
from keras import ops

from ple_keras._checks import (
    check_activation,
    check_bool,
    check_features,
    check_int,
    check_keys,
    check_not_negative,
    refuse_fixed,
)
from ple_keras._keras.building import build_on
from ple_keras._keras.copying import warn_of_replaced_functions
from ple_keras._keras.internals import load_error
from ple_keras._keras.quantization import QuantizableLayer
from ple_keras._keras.registration import register
from ple_keras._keras.tensors import (
    HALF_DTYPES,
    all_valid,
    is_traced_by_torch,
    to_numpy,
)
from ple_keras._keras.walking import Untracked
from ple_keras._typing import (
    Activation,
    ByName,
    LayerLike,
    LossLike,
    LossReduction,
    MetricLike,
    Shape,
    Store,
    Tensor,
)
from ple_keras.labels.label_arrays import (
    check_class_indices,
    check_for_loss,
    check_probabilities,
    label_width,
    loss_name,
    masks_elements,
    present_labels,
    warn_of_constant_labels,
)
from ple_keras.labels.label_statistics import LabelStatistics
from ple_keras.labels.sample_space import check_missing_label, to_config
from ple_keras.labels.task_names import check_task_name
from ple_keras.layers.template import as_template
from ple_keras.losses.head_losses import (
    ClassWeightLoss,
    PositiveWeightLoss,
    check_class_weights,
    without_wrapper,
)
from ple_keras.losses.joint_losses import LoggedLoss, LossWeights, TrainedLoss
from ple_keras.losses.masked_loss import (
    MaskedLoss,
    check_loss,
    check_reduction,
    mark_branches,
)
from ple_keras.losses.standardized_loss import LabelScale, StandardizedLoss, check_scale
from ple_keras.metrics.logit_auc import LogitAUC
from ple_keras.metrics.loss_mean import LossMean
from ple_keras.metrics.masked_metric import MaskedMetric, check_metrics, named_copies

# Activations whose inputs are mixed, not their outputs, for branches.
MIXED_BEFORE = (
    keras.activations.sigmoid,
    keras.activations.softmax,
    keras.activations.exponential,
)


@register
class Head(QuantizableLayer):
    """The output layers of a task: `activation(W tower(x_k) + b)`, `(..., H) -> (..., units)`.

    This is the base class of all heads. The output is float32 or wider under every dtype policy.
    The loss and the metrics are computed over labelled examples, see `MaskedLoss`.

    Args:
        task: The task's name, see `TaskHeads`.
        units: The width of the prediction.
        activation: The activation of the prediction: a name, a function, or None for linear.
        loss: The task's loss: a name, a function or a `keras.losses.Loss`. If None, the task is
            not trained.
        metrics: The task's metrics: a sequence of names, functions or `keras.metrics.Metric`
            objects, which are templates. If None, the metric is the mean of the loss.
        tower: The task's own network before the last Dense layer: an int, a sequence of ints or a
            layer. Ints are the units of an ExpertBlock. A layer is copied.
        loss_weight: The weight of the task's loss, at least 0.
        missing_label: The value of a missing label, in addition to NaN. Single numbers of a label
            may be missing if the loss is the mean of their losses, see `MaskedLoss`.
        reduction: None for the mean of the loss over the labelled examples of a batch,
            "sum_over_batch_size" to divide by the whole batch, or "label_root" to divide by the
            root of the product of both numbers, see `MaskedLoss`.
        extra_metrics: Metrics in addition to `metrics` or the default ones, in the same forms. A
            metric with a name that is taken gets a number: `auc_1`.
        **kwargs: Keras's layer arguments; `name` is `{task}_head` by default.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The prediction, `(..., units)`, at least float32.

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If `task` is not a valid name, `units` is below 1, `loss` or `reduction` is
            unknown, `loss_weight` is negative or not finite, or `tower` can't be copied.

    Example:

    >>> @keras.saving.register_keras_serializable()
    ... class CountHead(Head):
    ...     def __init__(self, task, activation="exponential", loss="poisson", **kwargs):
    ...         super().__init__(task, activation=activation, loss=loss, **kwargs)
    >>> tuple(CountHead("visits", tower=[16])(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    _other_ways: ClassVar[dict[str, str]] = {
        "loss_weight": "Call `TaskHeads.multiply_loss_weights`, train with a LossWeightSchedule, "
        "or compile again with `compile_kwargs(loss_weights={task: ...})`. "
    }

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
        self.loss = check_loss_of_head(loss)
        if metrics is None:
            metrics = [] if self.loss is None else [LossMean(self.loss)]
        self._metric_templates = Untracked(
            {
                "metrics": check_metrics(metrics),
                "extra_metrics": check_metrics(extra_metrics, "extra_metrics"),
            }
        )
        templates = self._metric_templates.value
        warn_of_replaced_functions(activation=activation, loss=without_wrapper(loss), **templates)
        self.loss_weight = check_not_negative(loss_weight, "loss_weight")
        self.missing_label = check_missing_label(missing_label)
        self.reduction = check_reduction(reduction)
        self._leading_axes: tuple[None, ...] = (None,)
        self._branches: tuple[str, ...] = ()
        self._traced_branches: Untracked[Any] = Untracked(None)
        self._left_out: frozenset[str] = frozenset()
        self._label_share: float | None = None
        self._tower_template = None
        if tower is not None:
            self._tower_template = as_template(tower, "tower", self.dtype_policy)

    @property
    def branch_names(self) -> list[str]:
        """The branches whose predictions the head mixes, in alphabetical order, see `HedgedBlock`.

        There are none before the head is built, or if it reads a tensor.
        """
        return list(self._branches)

    def _hedge(self, branches: Iterable[str]) -> None:
        """Make the unbuilt head mix predictions of branches. TaskHeads calls it in `build`.

        The order of the branches is alphabetical, since dicts of features have other orders on
        other backends.

        Args:
            branches: The names of the branches.

        Raises:
            ValueError: If the head is built, or computes its predictions in another way.
        """
        cls = type(self)
        is_plain = cls.call is Head.call and cls.logits is Head.logits
        if not is_plain:
            raise ValueError(
                f"A {cls.__name__} can't mix the branches of a HedgedBlock, since it overrides "
                "call or logits. Leave its task out of the block, and give it features of its own: "
                f"heads({{**hedged(x), {self.task!r}: features}}). Received: head={self!r}"
            )
        if self.built:
            raise ValueError(
                "A head of the branches of a HedgedBlock must be unbuilt. "
                f"Received: head={self!r}, built=True"
            )
        self._branches = tuple(sorted(branches))

    def build(self, input_shape: Shape) -> None:
        if self._branches:
            shapes = cast(Mapping[str, Shape], input_shape)
            for branch in self._branches:
                shape = self._build_layers(shapes[branch], f"-{branch}")
            self.mixture = self.add_weight(
                name="mixture",
                shape=(len(self._branches),),
                initializer=keras.initializers.Constant(1 / len(self._branches)),
                dtype="float32",
                autocast=False,
                trainable=False,
            )
        else:
            shape = self._build_layers(input_shape)
            self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: shape[-1]})
        self._leading_axes = (None,) * (len(shape) - 1)
        self._restore_frozen()

    def _build_layers(self, input_shape: Shape, ending: str = "") -> Shape:
        """Build the tower and the last Dense layer, with the ending "-{branch}" for a branch."""
        inputs = shape = check_features(input_shape)
        # `_tower` and `_projection`, with their endings, are names in the file format.
        if self._tower_template:
            tower = self._tower_template.copy(f"tower{ending}", self.task + ending)
            setattr(self, f"_tower{ending}", tower)
            shape = (*shape[:-1], build_on(tower, shape, self.compute_dtype, "tower"))
        dense = keras.layers.Dense(
            self.units, dtype=self._output_policy(), name=f"projection{ending}"
        )
        setattr(self, f"_projection{ending}", dense)
        dense.build(shape)
        return inputs

    def _output_policy(self) -> Any:
        return "float32" if self.compute_dtype in HALF_DTYPES else self.dtype_policy

    def logits(self, features: Tensor) -> Tensor:
        """Return the prediction before the activation; the head must be built.

        Args:
            features: The task's features, `(..., H)`; by branch if the head mixes branches.

        Returns:
            `(..., units)`, at least float32.
        """
        if not self.built:
            raise ValueError(
                f"{self.name!r} must be built or called before its logits are computed. "
                "Received: built=False"
            )
        if self._branches:
            return self._mixed(self._branch_logits(features))
        return self._logits(features)

    def _logits(self, features: Tensor, ending: str = "") -> Tensor:
        if self._tower_template:
            features = getattr(self, f"_tower{ending}")(features)
        return getattr(self, f"_projection{ending}")(features)

    def _branch_logits(self, features: ByName) -> list[Tensor]:
        """Return the logits of each branch, in the order of `branch_names`.

        Args:
            features: The task's features, `{branch: (..., H)}`.
        """
        check_keys(features, self._branches, f"inputs[{self.task!r}]")
        return [
            self._logits(features[b], f"-{b}") for b in self._branches if b not in self._left_out
        ]

    def _mix(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the prediction of the mixture, marked with those of the branches.

        The logits of probabilities and counts are mixed, and all other predictions themselves, so
        that a squared error is convex in the mixture.

        Args:
            logits: As returned by `_branch_logits`.
        """
        branches = [self._prediction(x) for x in logits]
        is_mixed_before = self.activation in MIXED_BEFORE
        mixed = self._mixed(logits if is_mixed_before else branches)
        prediction = self._prediction(mixed) if is_mixed_before else mixed
        self._mark_branches(prediction, branches)
        return prediction

    def _mark_branches(self, prediction: Tensor, branches: Sequence[Tensor]) -> None:
        """Mark a prediction, which a loss then trains by its branches.

        Args:
            prediction: The prediction of the task.
            branches: The predictions of the branches.
        """
        mark_branches(prediction, branches)
        if is_traced_by_torch():
            self._traced_branches.value = branches

    def _pop_traced_branches(self) -> Any:
        """Return and forget the branches of the last prediction that torch.compile traced."""
        branches, self._traced_branches.value = self._traced_branches.value, None
        return branches

    def branch_weights(self) -> dict[str, float]:
        """Return the weight of each branch in the mixture; the head must be built.

        Returns:
            Floats by branch that sum to 1; an empty dict if the head reads a tensor.
        """
        if not self._branches:
            return {}
        return dict(zip(self._branches, map(float, to_numpy(self.mixture))))

    def _mixed(self, values: Sequence[Tensor]) -> Tensor:
        mixture = ops.cast(self.mixture, values[0].dtype)
        weights = [mixture[i] for i, b in enumerate(self._branches) if b not in self._left_out]
        if self._left_out:
            weights = [weight / reduce(ops.add, weights) for weight in weights]
        return reduce(ops.add, [weight * value for weight, value in zip(weights, values)])

    @contextmanager
    def _without_branches_below(self, weight: float) -> Iterator[None]:
        """Leave branches with a smaller weight out of predictions, and divide by the others' sum.

        The largest one is kept.

        Args:
            weight: The smallest weight that is kept.
        """
        weights = self.branch_weights()
        largest = max(weights, key=weights.__getitem__, default="")
        left_out = {b for b, of_branch in weights.items() if of_branch < weight and b != largest}
        self._left_out = frozenset(left_out)
        try:
            yield
        finally:
            self._left_out = frozenset()

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the predictions of the task."""
        if self._branches:
            return self._mix(self._branch_logits(inputs))
        return self._prediction(self.logits(inputs))

    def _prediction(self, logits: Tensor) -> Tensor:
        return self.activation(logits)

    @property
    def label_share(self) -> float | None:
        """The share of rows with a label, from `TaskHeads.adapt`; None before it.

        If single numbers of a label are missing, it is the mean of their shares.
        """
        return self._label_share

    def _adapt(self, statistics: LabelStatistics) -> None:
        """Keep the statistics of the labels that the head uses, see `TaskHeads.adapt`."""
        self._label_share = statistics.share

    def new_loss(self) -> MaskedLoss | None:
        """Return a new, unweighted loss over labelled examples; None if the task has none."""
        return self.masked_loss(self.loss) if self.has_loss else None

    def masked_loss(self, loss: LossLike) -> MaskedLoss:
        """Return a loss of the task, computed over its labelled examples.

        Args:
            loss: A loss as for the head, or a MaskedLoss, which is returned itself.

        Raises:
            TypeError, ValueError: If `loss` is unknown, or does not reduce to one number.
        """
        if isinstance(loss, MaskedLoss):
            return loss
        return MaskedLoss(**self._loss_kwargs(check_loss_of_head(loss)))

    @property
    def has_loss(self) -> bool:
        """Whether the task has a loss and is trained."""
        return self.loss is not None

    def new_joint_losses(self, weights: LossWeights, index: int) -> tuple[TrainedLoss, LoggedLoss]:
        """Return the trained loss, with its current weight, and the logged loss.

        Args:
            weights: The variables that weigh the tasks' losses.
            index: The task's index in them.
        """
        kwargs = {"index": index, "weights": weights, **self._loss_kwargs(self.loss)}
        return TrainedLoss(loss_weight=self.loss_weight, **kwargs), LoggedLoss(**kwargs)

    def _loss_kwargs(self, loss: LossLike) -> dict[str, Any]:
        return {
            "loss": loss,
            "missing_label": self.missing_label,
            "reduction": self.reduction,
            "label_width": self._label_width(loss),
            "name": f"{self.task}_loss",
        }

    def _label_width(self, loss: LossLike) -> int | None:
        return label_width(without_wrapper(loss), self.units)

    def new_metrics(self, extra_metrics: Sequence[MetricLike] = ()) -> list[MaskedMetric]:
        """Return new metrics over labelled examples, with explicit names.

        Args:
            extra_metrics: Metrics in addition to those of the head.
        """
        argument = f"extra_metrics[{self.task!r}]"
        extra = {argument: check_metrics(extra_metrics, argument)}
        copies = named_copies({**self._metric_templates.value, **extra})
        metrics = [self.masked_metric(metric) for metric in copies]
        for metric in metrics:
            metric.display_name = f"{self.task}_{metric.name}"
        return metrics

    def masked_metric(self, metric: MetricLike, name: str | None = None) -> MaskedMetric:
        """Return a metric of the task, computed over its labelled examples.

        Args:
            metric: As for `MaskedMetric`.
            name: As for `MaskedMetric`.
        """
        return MaskedMetric(metric, self.missing_label, name)

    def check_labels(self, labels: Tensor) -> None:
        """Check an array of labels before training.

        Args:
            labels: `(...)`, `(..., 1)` or `(..., units)`. The leading axes are those of the
                features that the head was built for, or the batch alone if it is not built.

        Raises:
            TypeError: If labels are not numbers.
            ValueError: If labels have a wrong shape, or values that the task or its loss does not
                allow, such as negative counts for "poisson".

        Warns:
            UserWarning: As `TaskHeads.check_labels`.
        """
        present, _ = self._present_labels(labels)
        warn_of_constant_labels(present, self.task)
        self._check_values(present)

    def _present_labels(self, labels: Tensor) -> tuple[Any, int]:
        """Return the labels, without missing and ignored ones, and the number of rows."""
        shape = (*self._leading_axes, self.units)
        width, by_element = self._label_width(self.loss), masks_elements(self.loss)
        present, rows = present_labels(
            labels, self.task, self.missing_label, shape, width, by_element
        )
        ignored = getattr(self.loss, "ignore_class", None)
        if ignored is not None:
            present = present[(present != ignored).all(axis=-1)]
        return present, rows

    def _check_values(self, labels: Tensor) -> None:
        """Check the values of labels `(labels, width)`, without missing and ignored ones."""
        check_for_loss(labels, self.task, self.loss, self.units)

    def compute_mask(self, inputs: Tensor | ByName, previous_mask: Any) -> Tensor:
        """Return the mask of the prediction: of branches, it is valid where all of them are."""
        is_by_branch = isinstance(previous_mask, Mapping)
        return all_valid(previous_mask.values()) if is_by_branch else previous_mask

    def compute_output_shape(self, input_shape: Shape | Mapping[str, Shape]) -> Shape:
        return (*first_branch(input_shape)[:-1], self.units)

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Any:
        dtype = keras.dtype_policies.get(self._output_policy()).compute_dtype
        shape = self.compute_output_shape(first_branch(inputs).shape)
        return keras.KerasTensor(shape, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        metrics = {
            argument: [serialize(metric) for metric in templates]
            for argument, templates in self._metric_templates.value.items()
        }
        share = {} if self.label_share is None else {"label_share": self.label_share}
        return {
            **super().get_config(),
            **share,
            "task": self.task,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "loss": serialize(without_wrapper(self.loss)),
            **metrics,
            "tower": self._tower_template and self._tower_template.serialize(),
            "loss_weight": self.loss_weight,
            "missing_label": to_config(self.missing_label),
            "reduction": self.reduction,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Create a head. The share is set after `__init__`, which may lack `**kwargs`."""
        arguments = {key: value for key, value in config.items() if key != "label_share"}
        head = super().from_config(arguments)
        head._label_share = config.get("label_share")
        return head


@register
class BinaryHead(Head):
    """The probability of a positive label: `sigmoid`, `(..., H) -> (..., 1)`.

    The loss is binary cross-entropy. The metrics are `auc` and the mean of the loss,
    `binary_crossentropy` (`weighted_binary_crossentropy` with a `pos_weight`). The thresholds of
    `auc` are evenly spaced in the logit, so that it is accurate at low base rates too.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, see `Head`.
        loss: A loss of probabilities that replaces binary cross-entropy.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        pos_weight: The factor of the loss of examples with the label 1. The probabilities are then
            calibrated for the weighted data: their odds are `pos_weight` times too high.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics`, see `Head`, and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The probability of the label 1, `(..., 1)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`, and if `pos_weight` is not a number above 0.

    Example:

    >>> tuple(BinaryHead("click", tower=[64])(keras.ops.ones((8, 32))).shape)
    (8, 1)
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        pos_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(kwargs, "units", "1")
        refuse_fixed(kwargs, "activation", "sigmoid")
        if loss is None:
            loss = keras.losses.BinaryCrossentropy()
        self.pos_weight = pos_weight
        if pos_weight is not None:
            loss = PositiveWeightLoss(check_loss_of_head(loss), pos_weight)
        if metrics is None:
            metrics = [LogitAUC(), LossMean(loss)]
        super().__init__(task, 1, "sigmoid", loss, metrics, tower, **kwargs)

    def _check_values(self, labels: Tensor) -> None:
        check_probabilities(labels, self.task)

    def get_config(self) -> dict[str, Any]:
        config = without_keys(super().get_config(), "units", "activation")
        return {**config, "pos_weight": self.pos_weight}


@register
class RegressionHead(Head):
    """A prediction of one or more numbers: linear, `(..., H) -> (..., units)`.

    The loss is the mean squared error. The metrics are its root, `rmse`, and the error itself,
    `mean_squared_error`.

    With `standardize=True`, the size of the loss does not depend on the unit of the labels:

        prediction = mean + deviation * logit
        L = loss((label - mean) / deviation, logit)

    The squared error is thus divided by the variance, the absolute error by the deviation, and the
    delta of Huber is in deviations. A custom loss gets standardized numbers. Other losses of Keras
    are refused. The metrics `rmse` and `mean_squared_error` are in units; the metric of another
    loss is that of the standardized loss, such as `standardized_huber_loss`.

    The mean and the deviation are in files, files of weights alone, clones and exports. `adapt`
    does not change those that were given or loaded. A file of weights without them does not load
    into a head that has them, nor the reverse.

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, see `Head`.
        units: The number of predicted numbers.
        activation: An activation that replaces linear, such as "softplus" for positive targets.
        loss: A loss that replaces the mean squared error.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        standardize: Whether the head is trained on standardized labels, see above. The activation
            must be linear.
        mean: The mean of the labels: a number for each unit. If None, `TaskHeads.adapt` sets it.
        deviation: The standard deviation of the labels, as `mean`.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics`, see `Head`, and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The prediction, `(..., units)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`.
        ValueError: If `standardize` is True and `activation` or `loss` is not allowed. If only one
            of `mean` and `deviation` is given, a number is not finite, their length is not `units`,
            or a deviation is below 1e-18. In a call, if `standardize` is True and `mean` is
            unknown.

    Example:

    >>> head = RegressionHead("watch_time", tower=ExpertBlock([64], activation="gelu"))
    >>> tuple(head(keras.ops.ones((8, 32))).shape)
    (8, 1)
    >>> seconds = RegressionHead("seconds", standardize=True)
    >>> TaskHeads([seconds]).adapt({"seconds": [20.0, 40.0, float("nan")]})
    >>> seconds.mean, seconds.deviation
    ([30.0], [10.0])
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        units: int = 1,
        activation: Activation = None,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        standardize: bool = False,
        mean: float | Sequence[float] | None = None,
        deviation: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        shown = loss = check_loss_of_head(keras.losses.MeanSquaredError() if loss is None else loss)
        self.standardize = check_bool(standardize, "standardize")
        self._scale = LabelScale(*check_scale(mean, deviation, units, standardize))
        if self.standardize:
            _check_linear(activation)
            loss = StandardizedLoss(loss, self._scale)
            shown = shown if loss_name(shown) == "mean_squared_error" else loss
        if metrics is None:
            metrics = [keras.metrics.RootMeanSquaredError(name="rmse"), LossMean(shown)]
        super().__init__(task, units, activation, loss, metrics, tower, **kwargs)
        for metric in chain.from_iterable(self._metric_templates.value.values()):
            if isinstance(metric, LossMean) and isinstance(metric.loss, StandardizedLoss):
                metric.loss.scale = self._scale  # one from a config has its own

    @property
    def mean(self) -> list[float] | None:
        """The mean of the labels of each unit; None if it is unknown or unused."""
        return self._scale.mean

    @property
    def deviation(self) -> list[float] | None:
        """The standard deviation of the labels of each unit; None as for `mean`."""
        return self._scale.deviation

    def _prediction(self, logits: Tensor) -> Tensor:
        return self._scale.to_units(logits) if self.standardize else super()._prediction(logits)

    def masked_loss(self, loss: LossLike) -> MaskedLoss:
        if self.standardize and not isinstance(loss, MaskedLoss | StandardizedLoss):
            loss = StandardizedLoss(check_loss_of_head(loss), self._scale)
        return super().masked_loss(loss)

    def _label_width(self, loss: LossLike) -> int | None:
        return self.units if self.standardize else super()._label_width(loss)

    def _adapt(self, statistics: LabelStatistics) -> None:
        if self.standardize and not self._scale.is_given:
            self._scale.set(self.task, statistics)
        super()._adapt(statistics)

    def save_own_variables(self, store: Store) -> None:
        super().save_own_variables(store)
        self._scale.save(store)

    def load_own_variables(self, store: Store) -> None:
        is_in_file = "mean" in list(store.keys())
        if is_in_file != self.standardize and (is_in_file or self.mean):
            other = "standardize=True" if is_in_file else "standardize=False or before `adapt`"
            reason = (
                f"The file was written by a head with {other}, but {self.name!r} has "
                f"standardize={self.standardize}, so its logits have another unit. "
                f"Received: standardize={self.standardize}"
            )
            raise load_error(self, store, reason)
        entries = self._scale.load(self.task, self.units, store) if self.standardize else store
        super().load_own_variables(entries)

    def get_config(self) -> dict[str, Any]:
        scale = self._scale.get_config()
        return {**super().get_config(), "standardize": self.standardize, **scale}


@register
class MulticlassHead(Head):
    """The probability of each class: `softmax`, `(..., H) -> (..., num_classes)`.

    The labels are class indices. The loss is sparse categorical cross-entropy. The metrics are
    `accuracy` and the mean of the loss, `sparse_categorical_crossentropy`
    (`weighted_sparse_categorical_crossentropy` with `class_weights`).

    Args:
        task: The task's name, see `TaskHeads`.
        tower: The task's own network, see `Head`.
        num_classes: The number of classes, at least 2.
        loss: A loss of probabilities that replaces sparse categorical cross-entropy.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        class_weights: The factor of the loss of an example, by the class of its label: a sequence
            or array of `num_classes` numbers of at least 0, or a dict by class. Classes that a dict
            omits have the weight 1. A pandas Series is a dict by class. For labels that are
            probabilities `y_c`, the factor is the sum of `y_c w_c`. The loss is still divided by
            the number of labelled examples. The predictions are then calibrated for the weighted
            data.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics`, see `Head`, and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The probability of each class, `(..., num_classes)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`, and if `num_classes` is not an integer above 1, or
            `class_weights` have another length, an unknown class, or a weight that is negative or
            not finite, or are all 0.

    Example:

    >>> tuple(MulticlassHead("category", num_classes=12)(keras.ops.ones((8, 32))).shape)
    (8, 12)
    >>> weighted = MulticlassHead("category", num_classes=3, class_weights={2: 5.0})
    >>> weighted.class_weights
    [1.0, 1.0, 5.0]
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        num_classes: int,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_classes = check_int(num_classes, "num_classes", minimum=2)
        refuse_fixed(kwargs, "units", "num_classes")
        refuse_fixed(kwargs, "activation", "softmax")
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy()
        self.class_weights = None
        if class_weights is not None:
            self.class_weights = check_class_weights(class_weights, self.num_classes)
            loss = ClassWeightLoss(check_loss_of_head(loss), self.class_weights)
        if metrics is None:
            metrics = ["accuracy", LossMean(loss)]
        super().__init__(task, num_classes, "softmax", loss, metrics, tower, **kwargs)

    def _check_values(self, labels: Tensor) -> None:
        if labels.shape[-1] == self.num_classes:  # a probability for each class
            check_probabilities(labels, self.task)
        else:
            check_class_indices(labels, self.task, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        config = without_keys(super().get_config(), "units", "activation")
        weights = self.class_weights and list(self.class_weights)
        return {**config, "num_classes": self.num_classes, "class_weights": weights}


def first_branch(value: Any) -> Any:
    """Return the value of the first branch, or a value without branches."""
    return next(iter(value.values())) if isinstance(value, Mapping) else value


def without_keys(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return a head's config without the arguments that its class does not accept."""
    return {key: value for key, value in config.items() if key not in keys}


def _check_linear(activation: Activation) -> None:
    if keras.activations.get(activation) is not keras.activations.linear:
        raise ValueError(
            "activation must be None if standardize=True: the prediction is linear in the logits. "
            f"Received: activation={activation!r}"
        )


def check_loss_of_head(loss: LossLike | None) -> Any:
    """Return a loss that a head can mask by its own rule and add to those of other tasks."""
    if isinstance(loss, MaskedLoss):  # and no serialized one, which files of 0.1.0 may have
        raise TypeError(
            "loss must not be a MaskedLoss: the head itself masks it, with missing_label and "
            f"reduction. Received: loss={loss!r}"
        )
    loss = check_loss(loss)
    if isinstance(loss, keras.Loss) and loss.reduction in (None, "none"):
        raise ValueError(
            "loss must reduce to one number, as by default, because the tasks' losses are added. "
            f"Received: loss={loss!r} with reduction={loss.reduction!r}"
        )
    return loss
