"""The fit of the mixtures of branches on rows that are not trained on."""

import math
from collections.abc import Callable
from importlib import import_module
from itertools import combinations
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_not_negative, warn_user
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Logs, Nested, TaskName
from ple_keras.heads.hedged_head import HedgedHead
from ple_keras.inspection.branches import BranchModel, BranchValues, branch_values, hedged_heads
from ple_keras.losses.example_losses import uncertainty_form

MAX_LOGIT = 14  # of a share in the sum of two weights
SECTIONS = 15
GOLDEN = (3 - math.sqrt(5)) / 2
MAX_SWEEPS = 20
TOLERANCE = 1e-7  # relative to the objective, of float32
MIN_PRIOR = 1e-6  # keeps the weights above 0
TINY = 1e-37  # close to the smallest normal number of float32


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
            HedgedBlock, or labels of a task are missing.

    Warns:
        UserWarning: If the data have sample weights.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((2,))
    >>> model = MultiTaskModel(inputs, heads(HedgedBlock(heads, [4])(inputs)))
    >>> model.compile("adam")
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
        model: A built model with a HedgedBlock and a TaskHeads.
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
    by_task = branch_values(observed, batches)
    if batches.has_weights:
        warn_user(
            "Sample weights have no effect on the mixtures of branches. Give rows that must not "
            "count a missing label."
        )
    for task, of_task in by_task.items():
        mixture = best_mixture(observed.heads[task], of_task, prior)
        mean = _mean_of_processes(mixture, int(of_task.examples.sum()))
        observed.heads[task].mixture.assign(mean.astype("float32"))


def best_mixture(head: HedgedHead, observed: BranchValues, prior: float) -> np.ndarray:
    """Return the weights of the branches that minimize the loss of a task, `(branches,)`."""
    values = np.stack(list(observed.values.values()))
    if not len(observed.labels):
        return np.full(len(values), 1 / len(values))
    for branch, of_branch in observed.values.items():
        is_finite = np.isfinite(of_branch)
        if not is_finite.all():
            raise ValueError(
                f"The predictions of {head.task!r} must be finite to fit its mixture. "
                "Lower the learning rate if the loss is NaN; `check_inputs` finds NaN in x. "
                f"Received: predictions[{branch!r}]=[..., {of_branch[~is_finite][0]}]"
            )
    dtype = keras.config.floatx()
    labels = ops.convert_to_tensor(observed.labels, dtype)

    def losses(weights: np.ndarray) -> np.ndarray:
        mixed = ops.convert_to_tensor(np.tensordot(weights, values, 1), dtype)
        found = to_numpy(head.example_losses(labels, head.prediction(mixed)))
        is_by_number = found.ndim == observed.numbers.ndim
        return np.asarray(found[observed.numbers if is_by_number else observed.examples])

    count = losses(np.full(len(values), 1 / len(values))).size
    scale, slope = uncertainty_form(head.loss)
    is_likelihood = (scale, slope) == (1.0, 0.5)  # neither a squared nor an absolute error

    def penalized(weights: np.ndarray) -> float:
        total = float(losses(weights).sum(dtype="float64"))
        if not is_likelihood:
            total = slope * count * math.log(max(total, TINY))
        return float(total - max(prior, MIN_PRIOR) / 2 * np.log(weights).sum())

    return minimize_on_simplex(penalized, len(values))


def minimize_on_simplex(function: Callable[[np.ndarray], float], size: int) -> np.ndarray:
    """Return the a, above 0 and with the sum 1, that minimizes a convex function.

    Two weights at a time exchange a part of their sum, found by a search over its logit: first on a
    grid, since the losses of saturated predictions are flat, then by golden sections.

    Args:
        function: A function of a, which is rounded to float32.
        size: The length of a.
    """
    weights = np.full(size, 1 / size)
    value = function(weights)
    for _ in range(MAX_SWEEPS):
        before = value
        for i, j in combinations(range(size), 2):
            candidate = _exchanged(function, weights, i, j)
            found = function(candidate)
            if found < value:
                weights, value = candidate, found
        if size == 2 or before - value <= TOLERANCE * (1 + abs(value)):
            break
    return weights


def _exchanged(
    function: Callable[[np.ndarray], float], weights: np.ndarray, i: int, j: int
) -> np.ndarray:
    """Return weights with the best parts of the sum of two of them."""

    def exchange(logit: float) -> np.ndarray:
        part = 1 / (1 + math.exp(-logit))
        changed = weights.copy()
        changed[[i, j]] = np.array([part, 1 - part]) * (weights[i] + weights[j])
        return changed

    grid = np.linspace(-MAX_LOGIT, MAX_LOGIT, 2 * MAX_LOGIT + 1)
    best = grid[np.argmin([function(exchange(logit)) for logit in grid])]
    low, high = best - 1, best + 1
    for _ in range(SECTIONS):
        third = (high - low) * GOLDEN
        if function(exchange(low + third)) < function(exchange(high - third)):
            high = high - third
        else:
            low = low + third
    return exchange((low + high) / 2)


def _mean_of_processes(mixture: np.ndarray, rows: int) -> np.ndarray:
    """Return the mean over all processes, each with the weight of its labeled rows."""
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
