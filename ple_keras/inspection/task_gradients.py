"""The gradients of the tasks' losses on the parts of a model that several tasks train."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import keras
import numpy as np

from ple_keras._keras.walking import find_layers
from ple_keras._typing import Nested, Tensor, WeightSlice
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.inspection.gradient_conflict import (
    Batch,
    ObserveInput,
    TaskLosses,
    gradient_function,
    loss_scale,
    losses_of_batch,
)
from ple_keras.inspection.levels import find_levels
from ple_keras.layers.observation import Observer

MAX_NUMBERS = 10**7  # in a variable; a larger one, such as a table of ids, is left out


@dataclass(frozen=True)
class Conflict:
    """Cosines between the gradients of two tasks on shared parts, over pairs of batches.

    The two gradients of a cosine are those of different batches. If they were of one batch, their
    noise would be correlated, as the labels are: a cosine of a trained model would not tell whether
    the tasks conflict. Noise brings these cosines towards 0.

    Attributes:
        cosine: The mean.
        error: The standard error of the mean; NaN with fewer than two pairs.
        pairs: The number of pairs of batches.
    """

    cosine: float
    error: float
    pairs: int


@dataclass(frozen=True)
class GradientFigures:
    """Figures of the gradients on shared parts.

    Attributes:
        shares: The share of each task: the root mean square over the batches of the norm of its
            gradient, times the weight of its loss, divided by the sum over the tasks. NaN without
            shared parts.
        conflicts: The conflict of each pair of tasks.
        trend: The cosine between the weighted sums of the gradients of two batches: near 0 where
            training has settled, near 1 where every batch moves the weights in the same direction.
        batches: The number of batches.
    """

    shares: dict[str, float]
    conflicts: dict[tuple[str, str], Conflict]
    trend: Conflict
    batches: int


class SharedGradients:
    """Scalar products between gradients of tasks on shared parts, over batches.

    A part is an expert of a level, or a trainable variable before the heads. It is shared if at
    least two tasks have a gradient on it.

    Args:
        model: A built model.
        losses: The loss of each task.
    """

    def __init__(self, model: keras.Layer, losses: TaskLosses) -> None:
        self._task_losses = losses
        self._parts = _parts_before_heads(model)
        variables = {id(v): v for part in self._parts for v, _ in part}
        self._ids = list(variables)
        names = {id(block): level for level, block in find_levels(model).items()}

        def losses_of(batch: Batch, observe: ObserveInput) -> list[Tensor]:
            with Observer(names):  # which keeps gate statistics as they are
                return losses_of_batch(model, losses, batch)

        self._gradients = gradient_function(losses_of, [*variables.values()], model)
        self._within: list[np.ndarray] = []  # of batches, (parts, tasks, tasks)
        self._across: list[np.ndarray] = []  # of pairs of batches
        self._first: list[np.ndarray] | None = None  # of a pair, (tasks, numbers) by part

    def add(self, x: Nested, y: dict[str, Tensor], examples: Mapping[str, int]) -> None:
        """Add a batch.

        Args:
            x: The features.
            y: The labels of each task that has a loss.
            examples: The number of examples of each task, over all axes but the last.
        """
        of_variables, _ = self._gradients((x, y))
        by_variable = dict(zip(self._ids, of_variables))
        scales = np.array([[loss_scale(examples[task])] for task in self._task_losses])
        rows = [
            np.concatenate(
                [by_variable[id(v)][(slice(None), *i)].reshape(len(scales), -1) for v, i in part],
                axis=1,
            )
            / scales
            for part in self._parts
        ]
        self._within.append(_products(rows, rows))
        if self._first is None:
            self._first = rows
        else:
            self._across.append(_products(self._first, rows))
            self._first = None

    def figures(self, weights: Mapping[str, float]) -> GradientFigures:
        """Return the figures of all batches.

        Args:
            weights: The current weight of each task's loss.
        """
        tasks = list(self._task_losses)
        squares = np.diagonal(np.array(self._within), axis1=2, axis2=3)  # by batch, part and task
        is_shared = (squares.sum(axis=0) > 0).sum(axis=-1) > 1
        within = np.array(self._within)[:, is_shared].sum(axis=1)
        across = np.array(self._across).reshape(-1, *squares.shape[1:], len(tasks))
        across = across[:, is_shared].sum(axis=1)
        lengths = np.sqrt(np.diagonal(within, axis1=1, axis2=2))
        w = np.array([weights[task] for task in tasks])
        norms = w * np.sqrt((lengths**2).mean(axis=0))
        total = norms.sum()
        shares = norms / total if is_shared.any() and total else np.full(len(tasks), math.nan)
        pairs = 2 * len(across)
        first, second = lengths[0:pairs:2, :, None], lengths[1:pairs:2, None, :]
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = across / (first * second)
            sums = np.sqrt(np.einsum("a,nab,b->n", w, within, w))
            trend = np.einsum("a,nab,b->n", w, across, w) / (sums[0:pairs:2] * sums[1:pairs:2])
        cosines = (cosines + cosines.transpose(0, 2, 1)) / 2
        conflicts = {
            (tasks[i], tasks[j]): _conflict(cosines[:, i, j])
            for i, j in combinations(range(len(tasks)), 2)
        }
        return GradientFigures(
            dict(zip(tasks, shares.tolist())), conflicts, _conflict(trend), len(within)
        )


def no_gradients(tasks: Iterable[str]) -> GradientFigures:
    """Return the figures of a model in which no two tasks can share parts."""
    return GradientFigures(dict.fromkeys(tasks, math.nan), {}, _conflict(np.array([])), 0)


def _conflict(cosines: np.ndarray) -> Conflict:
    """Return the mean of cosines and its standard error, without those that are not finite."""
    cosines = cosines[np.isfinite(cosines)]
    count = len(cosines)
    mean = float(cosines.mean()) if count else math.nan
    error = float(cosines.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Conflict(mean, error, count)


def _products(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    """Return the scalar products `(parts, tasks, tasks)`, from arrays `(tasks, numbers)`."""
    return np.array([a @ b.T for a, b in zip(first, second)])


def _parts_before_heads(model: keras.Layer) -> list[list[WeightSlice]]:
    """Return the trainable parts of a model before its heads, as slices of variables."""
    of_experts = [
        block._level.bank.slices(expert)
        for block in find_levels(model).values()
        if block.built
        for expert in block.expert_names
    ]
    known = {id(v) for part in of_experts for v, _ in part}
    known |= {id(v) for heads in find_layers(model, TaskHeads) for v in heads.variables}
    rest: list[Any] = [[(v, ())] for v in model.trainable_variables if id(v) not in known]
    parts = [[(v, i) for v, i in part if _is_kept(v)] for part in [*of_experts, *rest]]
    return [part for part in parts if part]


def _is_kept(variable: keras.Variable) -> bool:
    return bool(variable.trainable) and math.prod(variable.shape) <= MAX_NUMBERS
