"""The fit of the mixtures of branches on rows that are not trained on."""

import math
from collections.abc import Callable
from importlib import import_module
from itertools import combinations
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_not_negative, warn_user
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Logs, LossLike, Nested, TaskName
from ple_keras.heads.head import MIXED_BEFORE, Head
from ple_keras.inspection.branches import (
    BranchModel,
    BranchPredictions,
    branch_predictions,
    hedged_heads,
)
from ple_keras.losses.joint_losses import uncertainty_form
from ple_keras.losses.masked_loss import example_losses

STEP = 0.02  # of differences
TOLERANCE = 1e-5  # of the last step of a weight
MAX_STEPS = 50
MIN_PRIOR = 1e-6  # keeps the weights above 0
TINY = 1e-37  # close to the smallest normal number of float32
ROUNDING = 1e-7  # of float32


class FitHedge(keras.callbacks.Callback):
    """Callback that fits the mixtures of a HedgedBlock on validation data.

    The mixture a of a task is fitted on its labels in the validation data, with the `prior`:

        a = argmin_a sum_i l(f(x_i), y_i) - (prior / 2) sum_b log(a_b)

    The weights a are not negative and sum to 1. f is the mixture of the branches, see HedgedBlock.
    The second term is the prior of a Dirichlet distribution, which keeps equal weights where labels
    are few. l is the loss of the head. For a squared error, the sum is `n / 2 log(mean of l)`, and
    for an absolute error `n log(mean of l)`. A task without labels has equal weights.

    The fit runs at the beginning of each validation in `fit`, so that `val_` metrics, early
    stopping and checkpoints have the new mixture. It runs at the end of epochs without validation.
    Metrics on the same rows are slightly optimistic, by one fitted number for each task. In
    several processes, each fits on its own rows, and the mixtures are averaged.

    Logs, at the end of each epoch: `hedge/{task}/{branch}`, the weight of the branch.

    Sample weights and masks of Keras have no effect: give rows that must not count, and padded
    positions of sequences, a missing label.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` of arrays, or batches of them, as for
            `fit`. y is a dict of labels by task, or an array in a model with one task. Rows that
            the model is trained on give a worse mixture.
        batch_size: The number of rows per batch, for arrays only, 1024 by default.
        prior: The weight of the prior, at least 0.

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If `validation_data` is empty or has different numbers of rows, `batch_size` is
            below 1, or `prior` is negative or not finite. In `fit`, if the model has no
            HedgedBlock, does not return predictions by task, or labels of a task are missing.

    Warns:
        UserWarning: If the data have sample weights.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, heads(HedgedBlock(heads, [4])(inputs)))
    >>> model.compile("adam", **heads.compile_kwargs())
    >>> x = np.eye(4)[:, :2]
    >>> y = {"click": np.array([0, 1, 1, 0]), "buy": np.array([0, np.nan, 1, 1])}
    >>> fitted = model.fit(x, y, validation_data=(x, y), callbacks=[FitHedge((x, y))], verbose=0)
    >>> weights = [fitted.history[f"hedge/click/{branch}"][0] for branch in ("shared", "own")]
    >>> round(sum(weights), 6)
    1.0
    """

    def __init__(
        self, validation_data: Nested, batch_size: int | None = None, prior: float = 1.0
    ) -> None:
        super().__init__()
        x, y, weights = validation_data, None, None
        if isinstance(validation_data, tuple) and len(validation_data) in (2, 3):
            x, y, weights = keras.utils.unpack_x_y_sample_weight(validation_data)
        self._batches = Batches(x, y, batch_size)
        self._batches.has_weights = weights is not None
        self._observed: BranchModel | None = None
        self.prior = check_not_negative(prior, "prior")
        self._is_training = self._is_fitted = False

    def on_train_begin(self, logs: Logs = None) -> None:
        self._is_training = True
        if self.model.built:
            self._observe()

    def on_train_end(self, logs: Logs = None) -> None:
        self._is_training = False

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._is_fitted = False

    def on_test_begin(self, logs: Logs = None) -> None:
        if self._is_training:  # and not in `evaluate`, which does not change a model
            self._fit()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if not self._is_fitted:
            self._fit()
        for task, head in hedged_heads(self.model).items():
            for branch, weight in head.branch_weights().items():
                if logs is not None:
                    logs[f"hedge/{task}/{branch}"] = weight

    def _fit(self) -> None:
        _fit_mixtures(self._observe(), self._batches, self.prior)
        self._is_fitted = True

    def _observe(self) -> BranchModel:
        """Return the model as a BranchModel, which is compiled once."""
        if self._observed is None or self._observed.inner is not self.model:
            self._observed = BranchModel(self.model)
        return self._observed


def fit_hedge(
    model: keras.Layer,
    x: Nested,
    y: Nested = None,
    batch_size: int | None = None,
    prior: float = 1.0,
) -> dict[TaskName, dict[str, float]]:
    """Fit the mixtures of a HedgedBlock once, as FitHedge does: for custom loops.

    Args:
        model: A built model with a HedgedBlock, and a TaskHeads as its last layer.
        x: Arrays, or a dict or list of arrays; or, with `y=None`, batches of `(x, y)`. They should
            be rows that the model was not trained on.
        y: `{task: labels}`, or an array in a model with one task.
        batch_size: The number of rows per batch, for arrays only, 1024 by default.
        prior: The weight of the prior, see `FitHedge`.

    Returns:
        The weights by branch of each task.

    Raises:
        TypeError, ValueError: As FitHedge.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, heads(HedgedBlock(heads, [4])(inputs)))
    >>> x = np.eye(4)[:, :2]
    >>> y = {"click": np.array([0, 1, 1, 0]), "buy": np.full(4, np.nan)}
    >>> mixtures = fit_hedge(model, x, y)
    >>> mixtures["buy"]
    {'own': 0.5, 'shared': 0.5}
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model or layer. Received: model={model!r}")
    batches, prior = Batches(x, y, batch_size), check_not_negative(prior, "prior")
    _fit_mixtures(BranchModel(model), batches, prior)
    return {task: head.branch_weights() for task, head in hedged_heads(model).items()}


def _fit_mixtures(observed: BranchModel, batches: Batches, prior: float) -> None:
    """Fit and assign the mixtures of all hedged tasks."""
    predictions = branch_predictions(observed, batches)
    if batches.has_weights:
        warn_user(
            "Sample weights have no effect on the mixtures of branches. Give rows that must not "
            "count a missing label."
        )
    for task, of_task in predictions.items():
        mixture = best_mixture(observed.heads[task], of_task, prior)
        mean = _mean_of_processes(mixture, int(of_task.is_labelled.sum()))
        observed.heads[task].mixture.assign(mean.astype("float32"))


def best_mixture(head: Head, observed: BranchPredictions, prior: float) -> np.ndarray:
    """Return the weights of the branches that minimize the loss of a task, `(branches,)`."""
    branches, rows = list(observed.predictions.values()), int(observed.is_labelled.sum())
    if not rows:
        return np.full(len(branches), 1 / len(branches))
    for branch, predictions in observed.predictions.items():
        is_finite = np.isfinite(predictions)
        if not is_finite.all():
            raise ValueError(
                f"The predictions of {head.task!r} must be finite to fit its mixture. "
                "Lower the learning rate if the loss is NaN; `check_inputs` finds NaN in x. "
                f"Received: predictions[{branch!r}]=[..., {predictions[~is_finite][0]}]"
            )
    is_mixed_before = head.activation in MIXED_BEFORE
    inputs = np.stack([_logits(p, head) if is_mixed_before else p for p in branches])
    loss = head.masked_loss(cast(LossLike, head.loss)).loss
    scale, slope = uncertainty_form(loss)
    is_likelihood = (scale, slope) == (1.0, 0.5)  # neither a squared nor an absolute error
    labels = ops.convert_to_tensor(observed.labels, keras.config.floatx())

    def total_loss(weights: np.ndarray) -> float:
        mixed = np.tensordot(weights, inputs, 1)
        predictions = ops.convert_to_tensor(mixed, keras.config.floatx())
        if is_mixed_before:
            predictions = head.activation(predictions)
        losses = example_losses(loss, labels, predictions, observed.is_labelled.ndim > 1)
        return float(to_numpy(losses)[observed.is_labelled].sum(dtype="float64"))

    log_factor = None if is_likelihood else slope * rows
    return minimize_on_simplex(total_loss, len(branches), log_factor, prior)


def _logits(predictions: np.ndarray, head: Head) -> np.ndarray:
    """Return the logits of probabilities, or the logarithms of counts, up to a constant."""
    positive = np.maximum(predictions.astype("float64"), TINY)
    if head.activation is not keras.activations.sigmoid:
        return np.asarray(np.log(positive))
    return np.asarray(np.log(positive) - np.log(np.maximum(1 - positive, ROUNDING / 10)))


def minimize_on_simplex(
    function: Callable[[np.ndarray], float],
    size: int,
    log_factor: float | None = None,
    prior: float = 1.0,
) -> np.ndarray:
    """Return the a, of at least 0 and with the sum 1, that minimizes `F(a) - prior/2 sum log a`.

    F is the function, or `log_factor * log(function)`. This is Newton's method, whose steps are
    halved until they decrease the sum. It converges if the function is convex. The matrix of the
    logarithm is that of its tangent, an upper bound, which is convex too.

    Args:
        function: A function of a, which is rounded to float32.
        size: The length of a.
        log_factor: The factor of the logarithm of the function, or None.
        prior: A number of at least 0.
    """
    basis = np.eye(size)[:, :-1] - np.eye(size)[:, -1:]  # of the steps that keep the sum
    barrier = max(prior, MIN_PRIOR) / 2
    weights = np.full(size, 1 / size)

    def penalized(a: np.ndarray) -> float:
        value = function(a)
        if log_factor is not None:
            value = log_factor * math.log(max(value, TINY))
        return float(value - barrier * np.log(a).sum())

    for _ in range(MAX_STEPS):
        value, gradient, matrix = _derivatives(function, weights, basis)
        tangent = 1.0 if log_factor is None else log_factor / max(value, TINY)
        gradient = tangent * gradient - barrier * basis.T @ (1 / weights)
        matrix = tangent * matrix + barrier * basis.T @ (basis / weights[:, None] ** 2)
        values, vectors = np.linalg.eigh(matrix)
        change = -vectors @ ((vectors.T @ gradient) / np.maximum(np.abs(values), TINY))
        step = basis @ change
        step *= min(1.0, 0.95 / max((-step / weights).max(), TINY))  # all weights stay above 0
        largest = penalized(weights)
        largest += ROUNDING * (1 + abs(largest) + (log_factor or 0))
        while np.abs(step).max() > TOLERANCE and penalized(weights + step) > largest:
            step /= 2
        weights = weights + step
        if np.abs(step).max() <= TOLERANCE:
            break
    return weights


def _derivatives(
    function: Callable[[np.ndarray], float], point: np.ndarray, basis: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the value, the gradient and the second derivatives of a function along a basis.

    The differences are wide, and of the fourth order, since losses are computed in float32.
    """
    value, size = function(point), basis.shape[1]
    at = {k: np.array([function(point + k * STEP * b) for b in basis.T]) for k in (-2, -1, 1, 2)}
    gradient = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * STEP)
    matrix = np.diag((16 * (at[1] + at[-1]) - (at[2] + at[-2]) - 30 * value) / (12 * STEP**2))
    for i, j in combinations(range(size), 2):
        both = function(point + STEP * (basis[:, i] + basis[:, j]))
        matrix[i, j] = matrix[j, i] = (both - at[1][i] - at[1][j] + value) / STEP**2
    return value, gradient, matrix


def _mean_of_processes(mixture: np.ndarray, rows: int) -> np.ndarray:
    """Return the mean over all processes, each with the weight of its labelled rows."""
    parts = _gather(np.append(mixture * rows, rows))
    total = parts[:, -1].sum()
    return parts[:, :-1].sum(axis=0) / total if total else mixture


def _gather(values: np.ndarray) -> np.ndarray:
    """Return an array of each process that trains the model, stacked."""
    backend: Any = import_module(keras.backend.backend())
    if keras.backend.backend() == "jax" and backend.process_count() > 1:
        multihost: Any = import_module("jax.experimental.multihost_utils")
        return np.asarray(multihost.process_allgather(values))
    if keras.backend.backend() == "torch":
        group = backend.distributed
        if group.is_available() and group.is_initialized():
            own = ops.convert_to_tensor(values)  # on the device of the group
            parts = [backend.empty_like(own) for _ in range(group.get_world_size())]
            group.all_gather(parts, own)
            return np.stack([to_numpy(part) for part in parts])
    return values[None]
