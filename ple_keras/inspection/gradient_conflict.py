"""Conflicts between the gradients of tasks in shared experts and inputs."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import SHARED, check_by_task, short_repr
from ple_keras._keras.batches import Batches
from ple_keras._typing import Index, Nested, Streams, Tensor
from ple_keras.inspection._errors import empty_data_error, failed_batch_error, repeated_run_error
from ple_keras.inspection._gradients import Batch, Losses, ObserveInput, gradient_function
from ple_keras.inspection._task_losses import TaskLosses, scaled_loss, task_losses
from ple_keras.inspection.levels import built_levels
from ple_keras.labels.alignment import check_dtype
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.observation import Observer

INPUT = "input"
Levels = Mapping[str, CGCBlock]
Place = tuple[str, str]  # a level and one of its shared experts, or "input"
Cosines = dict[tuple[str, str], float]


def gradient_conflict(
    model: keras.Layer, x: Nested, y: Nested = None, batch_size: int | None = None
) -> dict[str, dict[str, Cosines]]:
    """Return the cosines between the gradients of the tasks' losses in each level.

    1: two tasks have the same gradient direction. 0: the tasks do not interact. Below 0: the tasks
    conflict; a step that helps one harms the other. If shared experts have conflicts, try more task
    experts.

    The gradients are those of the heads' losses over the labelled examples of a batch, without
    loss weights and regularization. If a task was compiled with another loss, that loss is used.
    The model runs as in `predict`: without dropout, and without changes to weights, batch
    normalization statistics or gate statistics.

    Args:
        model: A built model that returns a dict by task, and has TaskHeads or was compiled with a
            dict of losses by task.
        x: Arrays, or a dict or list of arrays, as for `fit`; or, with `y=None`, batches of
            `(x, y)`: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        y: `{task: labels}` for each task that has a loss.
        batch_size: The number of examples per gradient, for arrays only; None for all examples.
            The cosines of several batches are averaged.

    Returns:
        `{level: {"input": {(task, task): cosine}, "shared/expert_0": ...}}`, with levels named as
        in `gate_weights` and pairs in task order. For a shared expert, the gradient is that of all
        its trainable weights. For "input", it is that of the tensor that the level reads. Only
        levels that read one tensor for all streams have "input", such as the first of a PLEBlock.
        A cosine is NaN if a task has no gradient, as without labels; the average skips such
        batches.

    Raises:
        TypeError: If `model` is not a Keras layer, `x` is neither arrays nor batches, or `y` is
            not a dict of numbers.
        ValueError: If `model` has no PLEBlock, MMoEBlock or CGCBlock, is not built, or runs a
            block twice in one pass. If it has no losses by task, several losses for one task, or
            does not return a dict by task. If `y` lacks a task, or `x` is empty. If called in the
            scope of a `tf.distribute` strategy with several replicas.

    Reference:

    - Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, definition 1.
      [arXiv:2001.06782](https://arxiv.org/abs/2001.06782)

    Example:

    >>> inputs = keras.Input((3,))
    >>> block = MMoEBlock(["up", "down"], keras.layers.Dense(4), num_experts=1, name="mmoe")
    >>> model = keras.Model(inputs, block(inputs))
    >>> model.compile(loss={"up": "mse", "down": "mse"})
    >>> x, y = np.ones((8, 3)), np.full((8, 4), 1000.0)
    >>> conflict = gradient_conflict(model, x, {"up": y, "down": -y})
    >>> round(conflict["mmoe"]["shared/expert_0"]["up", "down"], 3)
    -1.0
    """
    return conflict_of_batches(model, Batches(x, y, batch_size, default=None))


def conflict_of_batches(model: keras.Layer, batches: Batches) -> dict[str, dict[str, Cosines]]:
    """Return `gradient_conflict` of batches of `(x, y)`."""
    levels = built_levels(model)
    losses = task_losses(model, levels)
    cosines_of = _cosine_function(model, levels, losses)
    by_batch = [cosines_of(features, _select_labels(y, losses)) for features, y in batches]
    if not by_batch:
        raise empty_data_error(batches.given)
    conflict: dict[str, dict[str, Cosines]] = {level: {} for level in levels}
    for level, name in by_batch[0]:
        cosines = _mean_without_nan([batch[level, name] for batch in by_batch])
        conflict[level][name] = {
            (first, second): float(cosines[i, j])
            for (i, first), (j, second) in combinations(enumerate(losses), 2)
        }
    return conflict


def _select_labels(y: Nested, losses: TaskLosses) -> dict[str, Any]:
    """Return the labels of the tasks that have a loss."""
    labels = check_by_task(y, [*losses], "y")
    missing = [task for task in losses if labels.get(task) is None]
    if missing:
        raise ValueError(
            f"y must have labels for each of {list(losses)}; missing: {missing}. "
            f"Received: y={{{', '.join(map(repr, labels))}}}"
        )
    for task in losses:
        check_dtype(labels[task], f"y[{task!r}]")
    return {task: labels[task] for task in losses}


def _cosine_function(
    model: keras.Layer, levels: Levels, losses: TaskLosses
) -> Callable[[Nested, dict[str, Tensor]], dict[Place, np.ndarray]]:
    """Return a function from the x and y of a batch to cosines `(tasks, tasks)` by place."""
    slices = {
        (level, expert): [(v, i) for v, i in block._level.bank.slices(expert) if v.trainable]
        for level, block in levels.items()
        for expert in block.expert_names
        if expert.startswith(f"{SHARED}/")
    }
    variables = {id(v): v for of_expert in slices.values() for v, _ in of_expert}
    gradients = gradient_function(
        _loss_function(model, levels, losses), [*variables.values()], model
    )

    def cosines_of(x: Nested, y: dict[str, Tensor]) -> dict[Place, np.ndarray]:
        of_variables, of_inputs = gradients((x, y))
        by_variable = dict(zip(variables, of_variables))
        places = {(level, INPUT): [gradient] for level, gradient in of_inputs.items()}
        for place, of_expert in slices.items():
            places[place] = [_slice_gradients(by_variable[id(v)], index) for v, index in of_expert]
        return {place: _cosines(arrays, len(losses)) for place, arrays in places.items()}

    return cosines_of


def _slice_gradients(gradients: np.ndarray, index: Index) -> np.ndarray:
    """Return the gradients of one expert from those of stacked experts, `(tasks, ...)`."""
    of_expert: np.ndarray = gradients[(slice(None), *index)]
    return of_expert


def _loss_function(model: keras.Layer, levels: Levels, losses: TaskLosses) -> Losses:
    """Return a function from a batch to the tasks' losses that observes the levels' inputs."""
    names = {id(block): level for level, block in levels.items()}

    def compute(batch: Batch, observe: ObserveInput) -> list[Tensor]:
        x, y = batch
        with Observer(names, partial(_observe_tensor, levels, observe)) as observer:
            predictions = _predict(model, x)
        if observer.repeated:
            raise repeated_run_error(model, observer.repeated)
        _check_predictions(predictions, losses, model)
        return [scaled_loss(loss, y[task], predictions[task]) for task, loss in losses.items()]

    return compute


def _observe_tensor(levels: Levels, observe: ObserveInput, level: str, inputs: Streams) -> Streams:
    """Observe the inputs of a level, if they are one tensor for all streams."""
    if isinstance(inputs, Mapping):
        return inputs
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
        inputs = ops.cast(inputs, levels[level].compute_dtype)  # integers have no gradient
    return _KeepMask(lambda tensor: observe(level, tensor))(inputs)


class _KeepMask(keras.layers.Layer):
    """Layer that applies a function, since Keras keeps the masks of layer inputs only."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self._function = function

    def call(self, inputs: Tensor) -> Tensor:
        return self._function(inputs)


def _predict(model: keras.Layer, x: Nested) -> Any:
    try:
        return model(x, training=False)
    except Exception as error:
        raise failed_batch_error(x, error) from error


def _check_predictions(predictions: Nested, losses: TaskLosses, model: keras.Layer) -> None:
    if not (isinstance(predictions, Mapping) and set(losses) <= set(predictions)):
        returned = list(predictions) if isinstance(predictions, Mapping) else predictions
        raise ValueError(
            f"model must return a dict by task, with the keys {list(losses)}. "
            f"Received: model={model!r}, which returns {short_repr(returned)}"
        )


def _cosines(gradients: list[np.ndarray], tasks: int) -> np.ndarray:
    """Return the cosines `(tasks, tasks)` of gradients that consist of arrays `(tasks, ...)`.

    A cosine is NaN if a gradient is 0 or not finite.
    """
    with np.errstate(invalid="ignore"):
        products = np.zeros((tasks, tasks))
        for rows in (gradient.reshape(tasks, -1) for gradient in gradients):
            products += rows @ rows.T
        lengths = np.sqrt(np.diag(products))
        cosines: np.ndarray = np.clip(products / np.outer(lengths, lengths), -1, 1)
    return cosines


def _mean_without_nan(batches: list[np.ndarray]) -> np.ndarray:
    """Return the elementwise mean of the batches, without NaN."""
    stack = np.stack(batches)
    count = np.count_nonzero(~np.isnan(stack), axis=0)
    return np.where(count, np.nansum(stack, axis=0) / np.maximum(count, 1), math.nan)
