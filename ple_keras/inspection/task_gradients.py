"""The gradients of the tasks' losses on the parts of a model that several tasks train."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import combinations
from typing import Any

import keras
import numpy as np

from ple_keras._keras.layers import find_layers
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested, TaskName, Tensor, WeightSlice
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.heads.task_losses import batch_loss
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.levels import find_levels
from ple_keras.layers.observer import Observer
from ple_keras.steps.observing_model import naming_input

MAX_NUMBERS = 10**7  # in a variable; larger ones, such as embedding tables, are omitted
Part = list[WeightSlice]  # of a model
Batch = tuple[Nested, dict[str, Tensor]]  # features, and labels keyed by task
Losses = Callable[[Batch], list[Tensor]]
Rows = Iterable[Iterable[Tensor]]  # the gradients of each variable, by loss


def _losses_of_batch(model: keras.Layer, heads: Mapping[str, Head], batch: Batch) -> list[Tensor]:
    """Return the loss of each task, times the square root of the number of examples.

    In float16, gradients of a mean over many examples underflow, and gradients of a sum overflow.
    The square root keeps them in range. As a power of 2, it adds no rounding error.
    """
    x, y = batch
    scale = 2.0 ** round(math.log2(len(keras.tree.flatten(x)[0])) / 2)
    with Observer({}) as observer, naming_input(x):
        outputs = model(x, training=False) | observer.branches
    losses = (batch_loss(head, y[task], outputs[task], None) for task, head in heads.items())
    return [scale * loss.with_gradient() for loss in losses]


def gradient_function(
    losses: Losses, parts: list[Part], model: keras.Layer
) -> Callable[[Batch], list[np.ndarray]]:
    """Return a function from a batch to the gradients of its losses, which changes no state.

    Args:
        losses: A function from a batch to scalars.
        parts: The parts to differentiate with respect to.
        model: The layer with all other variables that `losses` reads.

    Returns:
        A function that returns a float64 array `(losses, numbers)` for each part. A gradient is 0
        if the loss does not depend on the part.
    """
    if not parts:
        return lambda batch: []
    variables = list({id(v): v for part in parts for v, _ in part}.values())
    is_torch = keras.backend.backend() == "torch"
    by_variable = partial(_on_torch if is_torch else _on_tensorflow, losses, variables)
    if keras.backend.backend() == "jax":
        by_variable = _on_jax(losses, variables, model)

    def gradients_of(batch: Batch) -> list[np.ndarray]:
        found = {
            id(variable): np.stack([*map(to_numpy, by_loss)]).astype("float64")
            for variable, by_loss in zip(variables, by_variable(batch))
        }
        rows = ([found[id(v)][:, *index] for v, index in part] for part in parts)
        return [np.concatenate([x.reshape(len(x), -1) for x in each], axis=1) for each in rows]

    return gradients_of


def _on_tensorflow(losses: Losses, variables: list[keras.Variable], batch: Batch) -> Rows:
    tf = import_module("tensorflow")
    with tf.GradientTape(persistent=True) as tape, keras.StatelessScope():
        values = losses(batch)
    sources = [variable.value for variable in variables]
    return zip(*(tape.gradient(x, sources, unconnected_gradients="zero") for x in values))


def _on_torch(losses: Losses, variables: list[keras.Variable], batch: Batch) -> Rows:
    torch = import_module("torch")
    with torch.enable_grad(), keras.StatelessScope():
        values = losses(batch)
    sources = [variable.value for variable in variables]
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    rows = [
        torch.autograd.grad(value, sources, **options)
        if value.requires_grad
        else [torch.zeros_like(source) for source in sources]
        for value in values
    ]
    return ([gradient.to_dense() for gradient in by_loss] for by_loss in zip(*rows))


def _on_jax(losses: Losses, variables: list[keras.Variable], model: keras.Layer) -> Any:
    jax = import_module("jax")
    known = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in known]

    def gradients_of(values: list[Tensor], rest: list[Tensor], batch: Batch) -> Any:
        def stacked_losses(values: list[Tensor]) -> Tensor:
            with keras.StatelessScope([*zip([*variables, *others], [*values, *rest])]):
                return jax.numpy.stack(losses(batch))

        return jax.jacrev(stacked_losses)(values)

    if getattr(model, "jit_compile", True) and not getattr(model, "run_eagerly", False):
        gradients_of = jax.jit(gradients_of)
    return lambda batch: gradients_of(
        [v.value for v in variables], [v.value for v in others], batch
    )


@dataclass(frozen=True)
class Conflict:
    """Cosines between the gradients of two tasks on shared parts, over pairs of batches.

    Each cosine compares gradients of two different batches. In the same batch, their noise would be
    correlated like the labels, and the cosine of a trained model would not show whether the tasks
    conflict. Independent noise moves cosines toward 0.

    Attributes:
        cosine: The mean.
        error: The standard error of the mean; NaN with fewer than two pairs.
        pairs: The number of pairs of batches.
    """

    cosine: float
    error: float
    pairs: int


class TaskGradients:
    """Scalar products between gradients of tasks on parts of a model, over batches.

    Args:
        model: A built model.
        heads: The heads that have a loss.
        parts: The parts, such as experts.
    """

    def __init__(self, model: keras.Layer, heads: Mapping[str, Head], parts: list[Part]) -> None:
        self._heads = heads
        losses = partial(_losses_of_batch, model, heads)
        self._gradients_of = gradient_function(losses, parts, model)
        self._size = (len(parts), len(heads), len(heads))
        self._within: list[np.ndarray] = []  # of batches, (parts, tasks, tasks)
        self._across: list[np.ndarray] = []  # of pairs of batches
        self._first: list[np.ndarray] = []  # of a pair, (tasks, numbers) per part

    def add(self, x: Nested, y: Mapping[TaskName, Tensor]) -> None:
        """Add a batch.

        Args:
            x: The features.
            y: The labels of each task that has a loss.
        """
        second = self._gradients_of((x, {task: y[task] for task in self._heads}))
        self._within.append(self._products(second, second))
        if len(self._within) % 2 == 0:
            self._across.append(self._products(self._first, second))
        self._first = second

    def _products(self, first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
        return np.reshape([a @ b.T for a, b in zip(first, second)], self._size)

    def mean_cosines(self) -> np.ndarray:
        """Return the mean cosines in the same batch, `(parts, tasks, tasks)`, without NaN."""
        within = np.array(self._within)
        cosines = _cosines(within, _lengths(within), _lengths(within))
        return np.asarray(np.ma.masked_invalid(cosines).mean(axis=0).filled(math.nan))

    def _on_shared_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the products in each batch, and between the batches of each pair.

        Both are `(n, tasks, tasks)`, summed over the parts that at least two tasks train.
        """
        within = np.array(self._within)
        across = np.array(self._across).reshape(len(self._across), *self._size)
        is_shared = (_lengths(within) > 0).any(axis=0).sum(axis=-1) > 1
        return within[:, is_shared].sum(axis=1), across[:, is_shared].sum(axis=1)

    def shares(self, weights: Mapping[TaskName, float]) -> dict[TaskName, float]:
        """Return the share of each task in the gradients on shared parts; NaN without them.

        It is the root mean square over the batches of the norm of the gradient, times the weight of
        the loss, divided by the sum over the tasks.

        Args:
            weights: The current weight of each task's loss.
        """
        within, _ = self._on_shared_parts()
        norms = np.sqrt((_lengths(within) ** 2).mean(axis=0))
        norms *= [weights[task] for task in self._heads]
        with np.errstate(invalid="ignore"):
            return dict(zip(self._heads, (norms / norms.sum()).tolist()))

    def conflicts(self) -> dict[tuple[TaskName, TaskName], Conflict]:
        """Return the conflict of each pair of tasks."""
        cosines = _pair_cosines(*self._on_shared_parts())
        return {
            (one, other): _conflict((cosines[:, i, j] + cosines[:, j, i]) / 2)
            for (i, one), (j, other) in combinations(enumerate(self._heads), 2)
        }

    def trend(self, weights: Mapping[TaskName, float]) -> Conflict:
        """Return the cosine between the weighted sums of the tasks' gradients of two batches.

        It is near 0 if training has settled, and near 1 if every batch moves the weights in the
        same direction.

        Args:
            weights: The current weight of each task's loss.
        """
        w = np.array([[weights[task] for task in self._heads]])
        products = self._on_shared_parts()
        return _conflict(_pair_cosines(*(w @ of_batches @ w.T for of_batches in products)))


def _lengths(products: np.ndarray) -> Any:
    """Return the lengths of vectors, `(..., n)`, from their scalar products, `(..., n, n)`."""
    return np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))


def _cosines(products: np.ndarray, first: np.ndarray, second: np.ndarray) -> Any:
    """Return cosines, `(..., n, n)`, from scalar products and the lengths of the vectors."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return products / (first[..., :, None] * second[..., None, :])


def _pair_cosines(within: np.ndarray, across: np.ndarray) -> Any:
    """Return the cosines between the batches of each pair, `(pairs, n, n)`."""
    lengths = _lengths(within[: 2 * len(across)])
    return _cosines(across, lengths[::2], lengths[1::2])


def _conflict(cosines: np.ndarray) -> Conflict:
    """Return the mean of the finite cosines and its standard error."""
    cosines = cosines[np.isfinite(cosines)]
    count = len(cosines)
    mean = float(cosines.mean()) if count else math.nan
    error = float(cosines.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Conflict(mean, error, count)


def parts_before_heads(model: keras.Layer) -> list[Part]:
    """Return the experts of a model's levels, and each other trainable variable before its heads.

    Variables with over ten million numbers, such as large tables, are omitted.
    """
    levels = [block for block in find_levels(model).values() if block.built]
    parts = [trainable_part(block, expert) for block in levels for expert in block.expert_names]
    known = {id(v) for part in parts for v, _ in part}
    known |= {id(v) for heads in find_layers(model, TaskHeads) for v in heads.variables}
    rest = (v for v in model.trainable_variables if id(v) not in known)
    parts += [[(v, ())] for v in rest if math.prod(v.shape) <= MAX_NUMBERS]
    return [part for part in parts if part]


def trainable_part(block: CGCBlock, expert: str) -> Part:
    """Return the trainable weights of an expert."""
    return [(v, index) for v, index in block._level.experts.slices(expert) if v.trainable]
