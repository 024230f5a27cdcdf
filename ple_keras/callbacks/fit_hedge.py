"""The fit of the mixtures of branches on held-out rows."""

import math
from collections.abc import Callable
from itertools import combinations

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_number
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import sum_over_processes, to_numpy
from ple_keras._typing import Logs, Nested, TaskName
from ple_keras.heads.hedged_head import HedgedHead, plain_head
from ple_keras.heads.task_heads import hedged_heads
from ple_keras.inspection.observed_model import ObservedModel, check_labels
from ple_keras.losses.example_losses import uncertainty_form

MAX_LOGIT = 14  # of a weight's share of the sum of two weights
POINTS, ZOOMS = 25, 3  # of the grids of its logit
MAX_SWEEPS = 20
TOLERANCE = 1e-7  # relative to the objective, of float32
MIN_PRIOR = 1e-6  # keeps the weights above 0
TINY = 1e-37  # close to the smallest normal number of float32


class FitHedge(keras.callbacks.Callback):
    """Callback that fits the mixtures of a HedgedBlock on validation data.

    The mixture a of a task is fitted on its labels in the validation data, with the `prior`:

        a = argmin_a sum_i l(f(x_i), y_i) - (prior / 2) sum_b log(a_b)

    The weights a are non-negative and sum to 1. f is the mixture of the branches (see HedgedBlock).
    The second term is a Dirichlet prior, which keeps the weights equal if there are few labels. l
    is the loss of the head. For a squared error, the sum is replaced by `n / 2 log(mean of l)`, and
    for an absolute error by `n log(mean of l)`. A task without labels has equal weights.

    The fit runs at the beginning of each validation in `fit`, so that `val_` metrics, early
    stopping and checkpoints use the new mixture. Without validation, it runs at the end of the
    epoch. Metrics on the same rows are slightly optimistic, by one fitted number per task. With
    several processes, each fits on its own rows, and the mixtures are averaged.

    At the end of each epoch, `hedge/{task}/{branch}` logs the weight of the branch.

    Sample weights and Keras masks have no effect. Use missing labels for rows that must not count
    and for padded positions of sequences.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` of arrays, or batches of them, as for
            `fit`. y is a dict of labels keyed by task, or an array in a model with one task.
            Training rows would lead to a worse mixture.
        batch_size: The number of rows per batch, only for arrays; by default 1024.
        prior: The weight of the prior, at least 0.

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If `validation_data` is empty or its numbers of rows differ, `batch_size` is
            below 1, or `prior` is negative or not finite. In `fit`, if the model has no
            HedgedBlock, or `y` lacks a task.

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
        x, y = validation_data, None
        if isinstance(validation_data, tuple) and len(validation_data) in (2, 3):
            x, y, *_ = validation_data
        self._batches = Batches(x, y, batch_size)
        self._observed: ObservedModel | None = None
        self.prior = check_number(prior, "prior", minimum=0)
        self._is_due = False

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.model.built:  # raises errors before the training
            self._observe()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._is_due = True

    def on_test_begin(self, logs: Logs = None) -> None:
        if self._is_due:  # but not in `evaluate`, which must not change a model
            self._fit()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._is_due:
            self._fit()
        for task, head in hedged_heads(self.model).items():
            for branch, weight in head.branch_weights().items():
                if logs is not None:
                    logs[f"hedge/{task}/{branch}"] = weight

    def _fit(self) -> None:
        _fit_mixtures(self._observe(), self._batches, self.prior)
        self._is_due = False

    def _observe(self) -> ObservedModel:
        """Return the observed model, which is compiled once."""
        if self._observed is None or self._observed.inner is not self.model:
            self._observed = _branch_model(self.model)
        return self._observed


def fit_hedge(
    model: keras.Layer,
    x: Nested,
    y: Nested = None,
    batch_size: int | None = None,
    prior: float = 1.0,
) -> dict[TaskName, dict[str, float]]:
    """Fit the mixtures of a HedgedBlock once, like FitHedge, for custom loops.

    Args:
        model: A built model with a HedgedBlock and a TaskHeads.
        x: Arrays, or a dict or list of arrays; or, with `y=None`, batches of `(x, y)`. They should
            be rows that the model was not trained on.
        y: `{task: labels}`, or an array in a model with one task.
        batch_size: The number of rows per batch, only for arrays; by default 1024.
        prior: The weight of the prior (see `FitHedge`).

    Returns:
        `{task: {branch: weight}}`.

    Raises:
        TypeError, ValueError: As for FitHedge.

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
    batches, prior = Batches(x, y, batch_size), check_number(prior, "prior", minimum=0)
    _fit_mixtures(_branch_model(model), batches, prior)
    return {task: head.branch_weights() for task, head in hedged_heads(model).items()}


def _trained_heads(model: keras.Layer) -> dict[TaskName, HedgedHead]:
    return {task: head for task, head in hedged_heads(model).items() if head.has_loss}


def _branch_model(model: keras.Layer) -> ObservedModel:
    """Return a model that outputs the values that hedged heads mix, a list per task."""
    heads = _trained_heads(model)
    if not heads:
        raise ValueError(
            "model must be built and have heads with losses for the branches of a HedgedBlock. "
            f"Received: model={model!r}"
        )
    return ObservedModel(model, lambda _, levels, held: {task: held[task].values for task in heads})


def _fit_mixtures(observed: ObservedModel, batches: Batches, prior: float) -> None:
    """Fit and assign the mixtures of all hedged tasks."""
    heads = _trained_heads(observed.inner)
    found: dict[TaskName, list[list[np.ndarray]]] = {task: [] for task in heads}
    for x, y in batches:
        values = observed.run_batch(x)
        labels = check_labels(y, heads)
        for task, head in heads.items():
            present, is_labeled = plain_head(head)._present_labels(labels[task])
            plain_head(head)._check_values(present)
            of_branches = [of_branch[is_labeled] for of_branch in values[task]]
            found[task].append([present, *of_branches])
    mixtures = {}
    for task, head in heads.items():
        present, *of_branches = (np.concatenate(parts) for parts in zip(*found[task]))
        mixture = best_mixture(head, present, np.stack(of_branches), prior)
        sums = sum_over_processes(np.append(mixture, 1.0) * len(present))
        mixtures[task] = sums[:-1] / sums[-1] if sums[-1] else mixture
    for task, mixture in mixtures.items():
        heads[task].mixture.assign(mixture.astype("float32"))


def best_mixture(
    head: HedgedHead, labels: np.ndarray, values: np.ndarray, prior: float
) -> np.ndarray:
    """Return the weights of the branches that minimize the loss of a task, `(branches,)`.

    Args:
        head: The head of the task.
        labels: The labels of labeled examples, `(examples, width)`. Single numbers can be NaN.
        values: The values that the head mixes, `(branches, examples, units)`.
        prior: The weight of the prior.
    """
    equal = np.full(len(values), 1 / len(values))
    if not len(labels):
        return equal
    wrong = values[~np.isfinite(values)]
    if len(wrong):
        raise ValueError(
            f"The predictions of {head.task!r} must be finite to fit its mixture. Lower the "
            "learning rate if the loss is NaN. `check_inputs` finds NaN in x. "
            f"Received: predictions=[..., {wrong[0]}]"
        )
    dtype = keras.config.floatx()
    y_true = ops.convert_to_tensor(labels, dtype)

    def losses(weights: np.ndarray) -> np.ndarray:
        mixed = ops.convert_to_tensor(np.tensordot(weights, values, 1), dtype)
        found = to_numpy(head.example_losses(y_true, head.prediction(mixed)))
        return found if found.ndim == 1 else found[~np.isnan(labels)]  # of numbers

    count = losses(equal).size
    scale, slope = uncertainty_form(head.loss)
    is_likelihood = (scale, slope) == (1.0, 0.5)  # neither a squared nor an absolute error

    def penalized(weights: np.ndarray) -> float:
        total = float(losses(weights).sum(dtype="float64"))
        if not is_likelihood:
            total = slope * count * math.log(max(total, TINY))
        return float(total - max(prior, MIN_PRIOR) / 2 * np.log(weights).sum())

    return minimize_on_simplex(penalized, len(values))


def minimize_on_simplex(function: Callable[[np.ndarray], float], size: int) -> np.ndarray:
    """Return the weights, above 0 and with a sum of 1, that minimize a convex function.

    For two weights at a time, it searches their shares of their sum on increasingly fine grids of
    the logit. Gradients are no alternative, since losses of saturated predictions are flat.

    Args:
        function: A function of the weights, with values rounded to float32.
        size: The number of weights.
    """
    weights = np.full(size, 1 / size)
    value = function(weights)
    for _ in range(MAX_SWEEPS):
        before = value
        for i, j in combinations(range(size), 2):
            low, high = -MAX_LOGIT, MAX_LOGIT
            for _ in range(ZOOMS):
                logits = np.linspace(low, high, POINTS)
                candidates = np.tile(weights, (POINTS, 1))
                parts = 1 / (1 + np.exp(np.stack([-logits, logits], axis=1)))
                candidates[:, [i, j]] = parts * (weights[i] + weights[j])
                values = [function(candidate) for candidate in candidates]
                best = int(np.argmin(values))
                if values[best] < value:
                    weights, value = candidates[best], values[best]
                step = (high - low) / (POINTS - 1)
                low, high = logits[best] - step, logits[best] + step
        if size == 2 or before - value <= TOLERANCE * (1 + abs(value)):
            break
    return weights
