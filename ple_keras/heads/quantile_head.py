"""The head of the quantiles of a number."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from keras import ops

from ple_keras._checks import check_number, short_repr
from ple_keras._keras.saving import register
from ple_keras._typing import LayerLike, MetricLike, Tensor
from ple_keras.families.quantiles import Quantiles
from ple_keras.heads.regression_heads import RegressionHead
from ple_keras.losses.pinball import pinball_loss


@register
class QuantileHead(RegressionHead):
    """Quantiles of a number, such as an interval of a duration: `(..., H) -> (..., quantiles)`.

    The loss is the mean pinball loss over the quantiles, and the only metric. For the quantile q of
    the label y with the prediction p:

        L = max(q (y - p), (q - 1) (y - p))

    Quantiles can't cross. The first one is linear, and each other one adds a positive number:

        p_1 = z_1,  p_i = p_{i-1} + log(1 + exp(z_i))

    A mixture of branches has positive weights, so its quantiles can't cross either. The biases
    start at the quantiles of the standard normal distribution.

    With `standardize=True`, p is the quantile of (label - mean) / deviation, as in a
    `RegressionHead`: predictions are in the unit of the labels, and the loss is divided by the
    deviation. Its mean is then `standardized_pinball`. A label has one number, or is missing.

    Args:
        task: The task's name (see `TaskHeads`).
        quantiles: The quantiles, such as `[0.1, 0.5, 0.9]`: numbers between 0 and 1, ascending.
        tower: The task's own network (see `Head`).
        metrics: Metrics that replace the mean of the loss. To keep it, use `extra_metrics`.
        standardize: Whether the head is trained on standardized labels.
        mean: The mean of the labels. If None, `TaskHeads.adapt` sets it.
        deviation: The standard deviation of the labels, in the form of `mean`.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The quantiles, ascending, `(..., quantiles)`, at least float32.

    Raises:
        TypeError: As for `Head`, if `quantiles` is not a sequence of numbers, or if `units`,
            `targets`, `activation` or `loss` is passed.
        ValueError: As for `RegressionHead`, and if `quantiles` are not between 0 and 1, not
            ascending, or empty.

    Reference:

    - Koenker, Bassett, "Regression Quantiles", Econometrica 46 (1), 1978.

    Example:

    >>> minutes = QuantileHead("minutes", [0.1, 0.5, 0.9], tower=[64], standardize=True)
    >>> TaskHeads([minutes]).adapt({"minutes": [10.0, 30.0, float("nan")]})
    >>> interval = minutes(keras.ops.zeros((1, 32)))
    >>> [round(float(x), 1) for x in interval[0]]
    [7.2, 20.0, 32.8]
    """

    _fixed = (*RegressionHead._fixed, "quantiles")
    _set_by_class = ("units", "targets", "activation", "loss")

    def __init__(
        self,
        task: str,
        quantiles: Sequence[float],
        tower: LayerLike | None = None,
        *,
        metrics: Sequence[MetricLike] | None = None,
        standardize: bool = False,
        mean: float | Sequence[float] | None = None,
        deviation: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.quantiles = _check_quantiles(quantiles)
        self._own_family = Quantiles(self.quantiles)
        self._initial_bias = _normal_biases(self.quantiles)
        super().__init__(
            task,
            tower,
            units=len(self.quantiles),
            targets=None,
            activation=None,
            loss=pinball_loss(self.quantiles),
            metrics=metrics,
            standardize=standardize,
            mean=mean,
            deviation=deviation,
            **kwargs,
        )

    def _activate(self, logits: Tensor) -> Tensor:
        # A sum in another order, as a cumulative sum can have, could cross by rounding.
        first, *others = ops.split(logits, self.units, axis=-1)
        values = [first]
        for each in others:
            values.append(values[-1] + ops.softplus(each))
        return super()._activate(ops.concatenate(values, axis=-1))

    def _label_width(self) -> int:
        return 1

    def _default_metrics(self) -> list[MetricLike]:
        return []


def _check_quantiles(quantiles: Any) -> list[float]:
    """Return quantiles as floats."""
    if isinstance(quantiles, str) or not np.iterable(quantiles):
        raise TypeError(
            f"quantiles must be a sequence of numbers. Received: quantiles={short_repr(quantiles)}"
        )
    found = [check_number(each, "quantiles", above=0, below=1) for each in quantiles]
    if not found or sorted({*found}) != found:
        raise ValueError(f"quantiles must be ascending numbers. Received: {quantiles=}")
    return found


def _normal_biases(quantiles: Sequence[float]) -> np.ndarray:
    """Return the biases with which logits of 0 are the quantiles of a normal distribution."""
    values = np.array([NormalDist().inv_cdf(each) for each in quantiles])
    return np.append(values[0], np.log(np.expm1(np.diff(values))))
