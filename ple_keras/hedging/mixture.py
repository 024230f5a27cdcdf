"""The fit of the mixture of a task's branches on held-out rows."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Tensor
from ple_keras.heads.head import Head
from ple_keras.heads.hedged_head import mix
from ple_keras.labels.sample_space import SAFE_LABEL, SAFE_PREDICTION
from ple_keras.losses.example_losses import uncertainty_form

MAX_SHARE_LOGIT = 14  # the logit of a weight's share of the sum of two weights
POINTS, ZOOMS = 25, 3  # grids of this logit
MAX_SWEEPS = 20
MIN_DECREASE = 1e-4  # decrease of the objective, a log-likelihood
MIN_PRIOR = 1e-6  # keeps the weights above 0
MIN_TOTAL = 1e-37  # sum of losses, close to the smallest normal number of float32
MAX_VALUES = 2**18  # numbers of all branches, times the candidates that are compared at once


class LabeledValues(NamedTuple):
    """The labeled rows of a task, with the values that its head mixes.

    Values take four bytes for each row, branch and unit.

    Attributes:
        labels: `(examples, width)`, without missing labels. Single numbers can be NaN.
        weights: The sample weight of each example, above 0: a weight of 2 counts as two examples.
        values: `(branches, examples, units)`; for a product, the logits of its factors.
    """

    labels: np.ndarray
    weights: np.ndarray
    values: np.ndarray


def best_mixture(head: Head, found: LabeledValues, prior: float | np.ndarray) -> np.ndarray:
    """Return the weights of the branches that minimize the loss of a task, `(branches,)`.

    Args:
        head: The head of the task.
        found: The labels and values.
        prior: The weight of the prior, or the weight for each branch, `(branches,)`. With `2 n a`,
            the mixture a counts as much as n labels: the penalty is n times the divergence from it.
    """
    labels, values = found.labels, found.values
    count = len(values)
    equal = np.full(count, 1 / count)
    if not len(labels):
        return equal
    wrong = values[~np.isfinite(values)]
    if len(wrong):
        raise ValueError(
            f"The predictions of {head.task!r} must be finite to fit its mixture. `check_inputs` "
            f"finds NaN in x. Received: predictions=[..., {wrong[0]}]"
        )
    scale, slope = uncertainty_form(head.loss)
    is_likelihood = (scale, slope) == (1.0, 0.5)  # neither a squared nor an absolute error

    def predict(candidates: np.ndarray) -> Tensor:
        mixed = mix(values, candidates.T[:, :, None, None])
        return head._predict(ops.convert_to_tensor(mixed, keras.config.floatx()))

    def penalized(candidates: np.ndarray) -> np.ndarray:
        losses, count = total_losses(head, found, predict(candidates))
        totals: np.ndarray = losses / dispersion
        if not is_likelihood:
            totals = slope * count * np.log(np.maximum(totals + pseudo_loss, MIN_TOTAL))
        totals -= (np.maximum(prior, MIN_PRIOR) / 2 * np.log(candidates)).sum(axis=1)
        return totals

    dispersion = 1.0
    if head._family().variance_power is not None:
        plain = [equal, *np.eye(count)]
        dispersion = _dispersion(head, found, [predict(weights[None])[0] for weights in plain])
    # A fit through all labels would be infinitely good without the loss of one more label.
    pseudo_loss = 0.0
    if not is_likelihood:
        (total,), weight = total_losses(head, found, predict(equal[None]))
        pseudo_loss = total / weight
    batch_size = max(MAX_VALUES // values.size, 1)
    return minimize_on_simplex(penalized, count, batch_size)


def _dispersion(head: Head, found: LabeledValues, predictions: Sequence[Tensor]) -> float:
    """Return the ratio of the variance of labels to a power of their mean, in the unit of the loss.

    The loss overstates the evidence of the labels on the mixture by this factor.

    Args:
        head: The head of counts or amounts.
        found: The labels.
        predictions: The mixture with equal weights, and each branch. The best one counts.
    """
    power, unit = head._family().variance_power, head._loss_unit()
    ratios = []
    for each in predictions:
        limits = keras.config.epsilon(), 1 / MIN_TOTAL
        expected = np.clip(to_numpy(each).astype("float64"), *limits)
        squares = (found.labels - expected) ** 2 / expected**power
        weights = found.weights[:, None] * ~np.isnan(squares)
        ratios.append(float(np.nansum(squares * weights) / weights.sum()))
    if power == 1:  # counts vary at least like a Poisson distribution
        return max(min(ratios), 1.0) / unit
    # One more label prevents that few labels decide the mixture, as it does for errors.
    return max(min(ratios) + ratios[0] / float(found.weights.sum()), MIN_TOTAL) / unit


def minimize_on_simplex(
    function: Callable[[np.ndarray], np.ndarray], size: int, batch_size: int
) -> np.ndarray:
    """Return the weights, above 0 and with a sum of 1, that minimize a convex function.

    For two weights at a time, it searches their shares of their sum on increasingly fine grids of
    the logit, and then along the change of all weights. It uses no gradients, since losses of
    saturated predictions are flat.

    Args:
        function: A function of candidates, `(candidates, size)`. It returns a value for each,
            rounded to float32, or NaN.
        size: The number of weights.
        batch_size: The largest number of candidates in a call.
    """
    weights, value = np.full(size, 1 / size), math.inf

    def search(candidates_at: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> None:
        nonlocal weights, value
        for _ in range(ZOOMS + (size > 2)):
            points = np.linspace(low, high, POINTS)
            candidates = candidates_at(points)
            cuts = range(batch_size, POINTS, batch_size)
            values = np.concatenate([*map(function, np.split(candidates, cuts))])
            values[np.isnan(values)] = math.inf
            best = int(np.argmin(values))
            if values[best] < value:
                weights, value = candidates[best], values[best]
            step = (high - low) / (POINTS - 1)
            low, high = points[best] - step, points[best] + step

    def share(start: np.ndarray, pair: list[int], logits: np.ndarray) -> np.ndarray:
        candidates = np.tile(start, (POINTS, 1))
        shares = 1 / (1 + np.exp(np.stack([-logits, logits], axis=1)))
        candidates[:, pair] = shares * start[pair].sum()
        return candidates

    def extend(start: np.ndarray, direction: np.ndarray, steps: np.ndarray) -> np.ndarray:
        logs = np.log(start) + steps[:, None] * direction
        powers: np.ndarray = np.exp(logs - logs.max(axis=1, keepdims=True))
        powers /= powers.sum(axis=1, keepdims=True)
        return powers

    for _ in range(MAX_SWEEPS):
        before, old = value, weights
        for pair in combinations(range(size), 2):
            search(partial(share, weights, [*pair]), -MAX_SHARE_LOGIT, MAX_SHARE_LOGIT)
        direction = np.log(weights) - np.log(old)
        if size > 2 and direction.any():  # sweeps alone zigzag along a narrow valley
            largest = MAX_SHARE_LOGIT / np.abs(direction).max()
            search(partial(extend, weights, direction), 0, largest)
        if size == 2 or before - value <= MIN_DECREASE:
            break
    return weights


def total_losses(head: Head, found: LabeledValues, predictions: Tensor) -> tuple[np.ndarray, float]:
    """Return the sums of the losses of labels, `(candidates,)`, and the sum of their weights.

    A sum is NaN if a prediction is not finite, which PyTorch can refuse. If single numbers of a
    label can be missing, each counts as a label.

    Args:
        head: The head of the task.
        found: The labels and their weights.
        predictions: `(candidates, examples, units)`.
    """
    predictions = to_numpy(predictions)
    count = len(predictions)
    predictions = predictions.reshape(-1, predictions.shape[-1])
    wrong = np.argwhere(~np.isfinite(predictions))[:, 0]
    if len(wrong):
        predictions = predictions.copy()
        predictions[wrong] = SAFE_PREDICTION
    labels = np.tile(found.labels, (count, 1))
    known = np.nan_to_num(labels, nan=SAFE_LABEL)
    y_true, y_pred = (ops.convert_to_tensor(x, keras.config.floatx()) for x in (known, predictions))
    losses = to_numpy(head.example_losses(y_true, y_pred)).astype("float64")
    losses[wrong] = np.nan
    weights = found.weights
    if losses.ndim > 1:
        losses, is_known = losses[~np.isnan(labels)], ~np.isnan(found.labels)
        weights = np.broadcast_to(weights[:, None], is_known.shape)[is_known]
    return (losses.reshape(count, -1) * weights).sum(axis=1), float(weights.sum())
