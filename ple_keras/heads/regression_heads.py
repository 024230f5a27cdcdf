"""The heads for numbers, such as a duration or a rating, and for counts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_bool, check_number, short_repr
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Activation, Config, LayerLike, LossLike, MetricLike, Shape, Tensor
from ple_keras.families.family import Power
from ple_keras.heads.head import Head
from ple_keras.labels.label_arrays import LabelStatistics
from ple_keras.labels.task_names import check_targets
from ple_keras.losses.loss_kinds import ERRORS, loss_name
from ple_keras.losses.tweedie import tweedie_loss
from ple_keras.metrics.sums import PoissonDeviance, TweedieDeviance

MIN_DEVIATION = 1e-18  # the square of its inverse is finite in float32


class StandardizedHead(Head):
    """Base of the heads that can be trained on standardized labels.

    Statistics of the labels are non-trainable weights, which all branches of a HedgedBlock have.
    """

    _fixed = (*Head._fixed, "standardize")
    standardize: bool
    _scale: dict[str, Sequence[float]]  # the statistics before `build`, in float64

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for name, numbers in self._scale.items() if self.standardize else ():
            initial = keras.initializers.Constant(np.array(numbers))
            options = {"name": name, "trainable": False, "autocast": False}
            weight = self.add_weight((len(numbers),), initial, "float32", **options)
            setattr(self, f"_{name}", weight)

    def _scale_weights(self) -> list[keras.Variable]:
        """Return the weights of the statistics; none before `build`."""
        return [getattr(self, f"_{name}") for name in self._scale if hasattr(self, f"_{name}")]

    def _set_scale(self, *statistics: np.ndarray) -> None:
        self._scale = {name: x.tolist() for name, x in zip(self._scale, statistics)}
        for weight, numbers in zip(self._scale_weights(), self._scale.values()):
            weight.assign(numbers)

    def _numbers(self, index: int) -> list[float] | None:
        """Return a statistic of each unit; None if it is unknown or unused."""
        known = [to_numpy(weight).tolist() for weight in self._scale_weights()]
        numbers = (known or [*self._scale.values()])[index]
        return None if any(map(math.isnan, numbers)) else list(numbers)

    @property
    def mean(self) -> list[float] | None:
        """The mean of the labels of each unit; None if it is unknown or unused."""
        return self._numbers(0)

    def _loss_name(self) -> str:
        name = super()._loss_name()
        return f"standardized_{name}" if self.standardize else name


@register
class RegressionHead(StandardizedHead):
    """A prediction of one or more numbers: linear, `(..., H) -> (..., units)`.

    The loss is the mean squared error. The metrics are its root, `rmse`, and the error itself,
    `mean_squared_error`. All are infinite for errors above 1e19, whose squares exceed float32.

    With `units` or `targets`, labels are `(batch, units)`, and NaN where missing.
    `mean_squared_error` is then the mean over all labeled numbers, and `rmse` its root.

    With `standardize=True`, the size of the loss does not depend on the unit of the labels:

        prediction = mean + deviation * logit
        L = loss((label - mean) / deviation, logit)

    The squared error is divided by the variance, and the absolute error by the deviation. The delta
    of Huber is in deviations. A custom loss gets standardized numbers. Keras's other losses are
    refused. The metrics `rmse` and `mean_squared_error` are in the unit of the labels. The metric
    of any other loss is the mean of the standardized loss, such as `standardized_huber_loss`.

    The mean and the deviation are non-trainable weights, as in `keras.layers.Normalization`: files
    and exports contain them, and a clone gets them from `set_weights`. `TaskHeads.adapt` can set
    them at any time, unless they are arguments of the head. Without them, predictions are NaN.
    `fit` of a MultiTaskModel calls `adapt` first. If the labels are in a generator, it raises an
    error instead, as `evaluate` does.

    Args:
        task: The task's name (see `TaskHeads`).
        tower: The task's own network (see `Head`).
        units: The number of predicted numbers.
        targets: The names of the numbers (see `BinaryHead`). `units` is their number.
        activation: The activation; by default linear. "softplus" suits positive targets.
        loss: A loss that replaces the mean squared error.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        standardize: Whether the head is trained on standardized labels. The activation must then be
            linear.
        mean: The mean of the labels: a number for each unit. If None, `TaskHeads.adapt` sets it.
        deviation: The standard deviation of the labels, in the form of `mean`.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The prediction, `(..., units)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`, and for `targets` as for `BinaryHead`.
        ValueError: If `standardize` is True and `activation` or `loss` is not allowed. If only one
            of `mean` and `deviation` is given, a number is not finite, their length is not `units`,
            or a deviation is below 1e-18.

    Example:

    >>> head = RegressionHead("watch_time", tower=ExpertBlock([64], activation="gelu"))
    >>> tuple(head(keras.ops.ones((8, 32))).shape)
    (8, 1)
    >>> seconds = RegressionHead("seconds", standardize=True)
    >>> TaskHeads([seconds]).adapt({"seconds": [20.0, 40.0, float("nan")]})
    >>> seconds.mean, seconds.deviation
    ([30.0], [10.0])
    """

    _fixed = (*StandardizedHead._fixed, "targets")

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        units: int = 1,
        targets: Iterable[str] | None = None,
        activation: Activation = None,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        standardize: bool = False,
        mean: float | Sequence[float] | None = None,
        deviation: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = keras.losses.MeanSquaredError() if loss is None else loss
        self.standardize = check_bool(standardize, "standardize")
        self.targets, units = check_targets(targets, units)
        super().__init__(task, units, activation, loss, metrics, tower, **kwargs)
        is_linear = self.activation is keras.activations.linear
        if self.standardize and not (is_linear and loss_name(self.loss) in ERRORS | {""}):
            raise ValueError(
                "With standardize=True, activation must be None, and loss must be a squared or "
                f"absolute error, Huber, LogCosh or custom. Received: {activation=}, {loss=}"
            )
        units = self._label_width() or units
        self._fixed_scale = _check_scale(mean, deviation, units, standardize)
        scale = self._fixed_scale or ((math.nan,) * units, (math.nan,) * units)
        self._scale = dict(zip(("mean", "deviation"), scale))

    @property
    def deviation(self) -> list[float] | None:
        """The standard deviation of the labels of each unit; None as for `mean`."""
        return self._numbers(1)

    def _activate(self, logits: Tensor) -> Tensor:
        if not self.standardize:
            return super()._activate(logits)
        mean, deviation = (ops.cast(x, logits.dtype) for x in self._scale_weights())
        return mean + deviation * logits

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.standardize:
            mean, deviation = (ops.cast(x, y_pred.dtype) for x in self._scale_weights())
            y_true, y_pred = ((y - mean) / deviation for y in (y_true, y_pred))
        return super().example_losses(y_true, y_pred)

    def _label_width(self) -> int | None:
        return self.units if self.standardize else super()._label_width()

    def _default_metrics(self) -> list[MetricLike]:
        squared = [] if self._logs_loss_mean() else [keras.metrics.MeanSquaredError()]
        return [keras.metrics.RootMeanSquaredError(name="rmse"), *squared]

    def _logs_loss_mean(self) -> bool:
        is_in_units = self.standardize and loss_name(self.loss) == "mean_squared_error"
        return super()._logs_loss_mean() and not is_in_units

    def _check_values(self, labels: Tensor) -> None:
        if not self.standardize:
            super()._check_values(labels)

    def _adapt(self, statistics: LabelStatistics) -> None:
        super()._adapt(statistics)
        if not self.standardize or self._fixed_scale:
            return
        mean, deviation = statistics.mean, statistics.deviation
        smallest = np.maximum(np.finfo("float32").eps * np.abs(mean), MIN_DEVIATION)
        wrong = np.flatnonzero(~(deviation > smallest))
        if len(wrong):
            names = [self._target_names()[k] for k in wrong]
            where = f" in the targets {short_repr(names)}" if len(mean) > 1 else ""
            raise ValueError(
                f"y[{self.task!r}] must have labels that differ in float32{where} if "
                f"standardize=True. Received: deviation={deviation[wrong]}, "
                f"labels={statistics.labels[wrong].tolist()}"
            )
        self._set_scale(mean, deviation)

    def get_config(self) -> Config:
        pairs = zip(("mean", "deviation"), self._fixed_scale or (None, None))
        scale = {argument: numbers and list(numbers) for argument, numbers in pairs}
        return {**super().get_config(), **scale}


def _check_scale(mean: Any, deviation: Any, units: int, standardize: bool) -> Any:
    """Return a fixed mean and deviation, with a float for each unit; None without them."""
    if mean is None and deviation is None:
        return None
    is_fixed = standardize and mean is not None and deviation is not None
    if not is_fixed or not np.size(mean) == np.size(deviation) == units:
        raise ValueError(
            "mean and deviation must be given together, with a number for each unit, and with "
            f"standardize=True. Received: {standardize=}, {units=}, {mean=}, {deviation=}"
        )
    return (
        tuple(check_number(x, "mean") for x in np.ravel(mean).tolist()),
        tuple(check_number(x, "deviation", MIN_DEVIATION) for x in np.ravel(deviation).tolist()),
    )


class PositiveHead(StandardizedHead):
    """Base of the heads of counts and amounts, whose mean is an exponential."""

    _set_by_class = ("units", "activation", "loss")

    def __init__(self, task: str, loss: LossLike, standardize: bool, **kwargs: Any) -> None:
        self.standardize = check_bool(standardize, "standardize")
        self._scale = {"mean": [math.nan]}
        super().__init__(task, 1, "exponential", loss, **kwargs)

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.standardize:
            (mean,) = (ops.cast(weight, y_pred.dtype) for weight in self._scale_weights())
            y_true, y_pred = y_true / mean, y_pred / mean
        return super().example_losses(y_true, y_pred)

    def _loss_unit(self) -> float:
        power: Any = self._family().variance_power
        mean = self.mean if self.standardize else None
        return float(mean[0] ** (2 - power)) if mean else 1.0

    def _present_labels(self, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        present, is_labeled = super()._present_labels(labels)
        self._check_values(present)
        return present, is_labeled

    def _adapt(self, statistics: LabelStatistics) -> None:
        mean, known = statistics.mean.item(), self._initial_bias
        if self.standardize and mean <= 0:
            raise ValueError(
                f"y[{self.task!r}] must have a label above 0, because its head has "
                f"standardize=True. Received: {mean=:g} of labels={statistics.labels.item()}"
            )
        super()._adapt(statistics)
        if self.standardize:
            self._set_scale(np.array([mean]))
        self._initial_bias = math.log(mean) if mean > 0 else known
        bias = self._projection.bias if hasattr(self, "_projection") else None
        if bias is not None and np.isclose(to_numpy(bias), known, atol=0):
            bias.assign([self._initial_bias])


@register
class CountHead(PositiveHead):
    """The expected value of a count: `exponential`, `(..., H) -> (..., 1)`.

    The loss is the negative log-likelihood of a Poisson distribution, without the terms that depend
    only on the label, so it can be negative. The metrics are its mean, `poisson`, and `deviance`:

        L = p - y log(p)

    With `standardize=True`, the size of the loss does not depend on the size of the counts, which
    would otherwise dominate the gradients on shared layers. With the mean m of the labels:

        L = p / m - y / m log(p / m)

    Predictions and metrics are still counts. The mean is a non-trainable weight, which
    `TaskHeads.adapt` can set at any time (see `RegressionHead`).

    `TaskHeads.adapt` sets the bias of the last Dense layer to the logarithm of the mean label, so
    that the first predictions have the size of the labels. It does not change a bias that has been
    trained or loaded.

    Args:
        task: The task's name (see `TaskHeads`).
        tower: The task's own network (see `Head`).
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        standardize: Whether to divide labels and predictions by the mean label in the loss.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The expected count, `(..., 1)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`.

    Example:

    >>> visits = CountHead("visits", tower=[64], standardize=True)
    >>> TaskHeads([visits]).adapt({"visits": [2, 7, float("nan")]})
    >>> prediction = visits(keras.ops.zeros((1, 32)))
    >>> round(float(prediction[0, 0]), 3), visits.mean
    (4.5, [4.5])
    """

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        metrics: Sequence[MetricLike] | None = None,
        standardize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(task, "poisson", standardize, metrics=metrics, tower=tower, **kwargs)

    def _default_metrics(self) -> list[MetricLike]:
        return [PoissonDeviance(), *([keras.metrics.Poisson()] if self.standardize else [])]

    def _logs_loss_mean(self) -> bool:
        return super()._logs_loss_mean() and not self.standardize


@register
class TweedieHead(PositiveHead):
    """The expected value of an amount, such as a claim or a revenue: `exponential`, `(..., 1)`.

    The loss is half the deviance of a Tweedie distribution, whose variance is proportional to the
    mean to the power p. With 1 < p < 2, amounts can be 0, like sums of a random number of claims.
    With p = 2, a gamma distribution, they are above 0. For the label y and the prediction m:

        L = y^(2 - p) / ((1 - p) (2 - p)) - y m^(1 - p) / (1 - p) + m^(2 - p) / (2 - p)
        L = y / m - 1 - log(y / m)                                                   for p = 2

    The metric is `deviance`, 2 L, like scikit-learn's `mean_tweedie_deviance`. A `CountHead` has
    p = 1.

    With `standardize=True`, the loss is computed from y / mean and m / mean with the mean label, so
    that its size does not depend on the unit. With p = 2, it never does. Predictions and metrics
    are still amounts. `TaskHeads.adapt` sets the mean and the first bias, as for a CountHead.

    Args:
        task: The task's name (see `TaskHeads`).
        power: The power p, above 1 and at most 2.
        tower: The task's own network (see `Head`).
        metrics: Metrics that replace the deviance. To keep it, use `extra_metrics`.
        standardize: Whether to divide labels and predictions by the mean label in the loss.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The expected amount, `(..., 1)`, at least float32.

    Raises:
        TypeError, ValueError: As for `Head`, and if `power` is not a number above 1 and at most 2.

    Reference:

    - Jorgensen, "The Theory of Dispersion Models", 1997, chapter 4.

    Example:

    >>> spend = TweedieHead("spend", power=1.5, standardize=True)
    >>> TaskHeads([spend]).adapt({"spend": [0.0, 9.0, float("nan")]})
    >>> round(float(spend(keras.ops.zeros((1, 32)))[0, 0]), 3), spend.mean
    (4.5, [4.5])
    """

    _fixed = (*PositiveHead._fixed, "power")

    def __init__(
        self,
        task: str,
        power: float = 1.5,
        tower: LayerLike | None = None,
        *,
        metrics: Sequence[MetricLike] | None = None,
        standardize: bool = False,
        **kwargs: Any,
    ) -> None:
        self.power = check_number(power, "power", above=1)
        if self.power > 2:
            raise ValueError(f"power must be above 1 and at most 2. Received: power={power!r}")
        self._own_family = Power(self.power)
        kwargs |= {"metrics": metrics, "tower": tower}
        super().__init__(task, tweedie_loss(self.power), standardize, **kwargs)

    def _label_width(self) -> int:
        return 1

    def _default_metrics(self) -> list[MetricLike]:
        return [TweedieDeviance(self.power)]

    def _logs_loss_mean(self) -> bool:
        return False


def check_adapted(heads: Mapping[str, Head]) -> None:
    """Check that all standardized heads know the mean of their labels."""
    for task in unadapted(heads):
        raise ValueError(
            f"The head of {task!r} has standardize=True and needs the mean of its labels. Call "
            "adapt(y) of the TaskHeads, or set mean and deviation. Received: mean=None"
        )


def unadapted(heads: Mapping[str, Head]) -> list[str]:
    """Return the tasks whose heads need the mean of their labels."""
    standardized = {t: head for t, head in heads.items() if isinstance(head, StandardizedHead)}
    return [t for t, head in standardized.items() if head.standardize and head.mean is None]
