"""Where the tasks pull the weights that they share in opposite directions."""

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import keras
import numpy as np

from ple_keras._checks import SHARED
from ple_keras._typing import Nested, Tensor
from ple_keras.inspection._gradients import Batch, Losses, Probe, gradient_function
from ple_keras.inspection._prober import Prober
from ple_keras.inspection._refusals import no_batch, not_taken, runs_repeatedly
from ple_keras.inspection._task_losses import TaskLosses, scaled_loss, task_losses
from ple_keras.inspection.batches import Batches
from ple_keras.inspection.levels import built_levels
from ple_keras.layers._level.expert_bank import Index
from ple_keras.layers._level.observer import observed_by
from ple_keras.layers._level.weight_slices import expert_slices
from ple_keras.layers.cgc_block import CGCBlock

INPUT = "input"
Levels = Mapping[str, CGCBlock]
Place = tuple[str, str]  # a level and one of its shared experts, or "input"
Cosines = dict[tuple[str, str], float]


def gradient_conflict(
    model: keras.Layer, x: Nested, y: Nested = None, batch_size: int | None = None
) -> dict[str, dict[str, Cosines]]:
    """How well the tasks agree on what they share: the cosines between their losses' gradients.

    1 where two tasks pull in one direction, 0 where neither minds the other, below 0 where they
    conflict: a step that helps one harms the other (Yu et al., "Gradient Surgery for Multi-Task
    Learning", NeurIPS 2020, definition 1). Experts in conflict are a reason to give tasks more
    experts of their own.

    The gradients are those of the heads' losses over the labelled examples of a batch, whatever
    the losses weigh; of the compiled loss, where a task was compiled with another one; without
    regularization. The model runs as in `predict`: without dropout, and without
    changing weights, the statistics of batch normalization or those of gates.

    Args:
        model: A built model that returns a dict by task, and has TaskHeads or was compiled with
            losses by task.
        x: Arrays, or a dict or list of arrays, as `fit` takes them; or, with `y=None`, batches of
            `(x, y)`: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader.
        y: `{task: labels}` for each task that has a loss.
        batch_size: The number of examples to take a gradient over, for arrays only; None for all of
            them. The cosines of several batches are averaged.

    Returns:
        `{level: {"input": {(task, task): cosine}, "shared/expert_0": ...}}`, with the levels as
        `gate_weights` names them and the pairs in task order: for each shared expert, the gradient
        for all of its trainable weights; for "input", that for the tensor that the level reads,
        which only a level has that reads one tensor for all streams, such as the first of a
        PLEBlock. NaN where a task has no gradient, as it has none without a label; batches in
        which that is so are left out of the average.

    Raises:
        TypeError: if `model` is no Keras layer, `x` neither arrays nor batches, or `y` no dict.
        ValueError: if `model` holds no PLEBlock, MMoEBlock or CGCBlock, isn't built, runs a block
            twice in one pass, has no losses by task, has several for one, or doesn't return a dict
            by task; or if `y` lacks a task, or `x` is empty; or within the scope of a
            `tf.distribute` strategy.

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
    return conflict_in(model, Batches(x, y, batch_size, default=None))


def conflict_in(model: keras.Layer, batches: Batches) -> dict[str, dict[str, Cosines]]:
    """As `gradient_conflict`, of batches of `(x, y)`."""
    levels = built_levels(model)
    losses = task_losses(model, levels)
    measure = _cosine_function(model, levels, losses)
    found = [measure(features, _labels(labels, losses)) for features, labels in batches]
    if not found:
        raise no_batch(batches.given)
    conflict: dict[str, dict[str, Cosines]] = {level: {} for level in levels}
    for level, name in found[0]:
        cosines = _mean([batch[level, name] for batch in found])
        conflict[level][name] = {
            (first, second): float(cosines[i, j])
            for (i, first), (j, second) in combinations(enumerate(losses), 2)
        }
    return conflict


def _labels(y: Nested, losses: TaskLosses) -> dict[str, Any]:
    """The labels of the tasks that have a loss."""
    if not isinstance(y, Mapping):
        raise TypeError(f"y must be a dict by task, {list(losses)}. Received: y={y!r}")
    missing = [task for task in losses if y.get(task) is None]
    if missing:
        raise ValueError(
            f"y must have labels for each of {list(losses)}; missing: {missing}. "
            f"Received: y={{{', '.join(map(repr, y))}}}"
        )
    return {task: y[task] for task in losses}


def _cosine_function(
    model: keras.Layer, levels: Levels, losses: TaskLosses
) -> Callable[[Nested, dict[str, Tensor]], dict[Place, np.ndarray]]:
    """From a batch's x and y to the cosines `(tasks, tasks)` at each place."""
    parts = {
        (level, expert): [(v, where) for v, where in expert_slices(block)[expert] if v.trainable]
        for level, block in levels.items()
        for expert in block.expert_names
        if expert.startswith(f"{SHARED}/")
    }
    variables = {id(v): v for of_expert in parts.values() for v, _ in of_expert}
    gradients = gradient_function(_forward(model, levels, losses), [*variables.values()], model)

    def measure(x: Nested, y: dict[str, Tensor]) -> dict[Place, np.ndarray]:
        of_variables, of_inputs = gradients((x, y))
        by_variable = dict(zip(variables, of_variables))
        places = {(level, INPUT): [gradient] for level, gradient in of_inputs.items()}
        for place, of_expert in parts.items():
            places[place] = [_of_expert(by_variable[id(v)], where) for v, where in of_expert]
        return {place: _cosines(arrays, len(losses)) for place, arrays in places.items()}

    return measure


def _of_expert(gradients: np.ndarray, where: Index) -> np.ndarray:
    """The part of the tasks' gradients for a stack, `(tasks, ...)`, that is one expert's."""
    part: np.ndarray = gradients[(slice(None), *where)]
    return part


def _forward(model: keras.Layer, levels: Levels, losses: TaskLosses) -> Losses:
    """The tasks' losses in a batch, with a probe on what each level reads."""
    names = {id(block): level for level, block in levels.items()}

    def forward(batch: Batch, probe: Probe) -> list[Tensor]:
        x, y = batch
        prober = Prober(names, probe)
        with observed_by(prober):
            predictions = _run(model, x)
        if prober.repeated:
            raise runs_repeatedly(model, prober.repeated)
        _check_predictions(predictions, losses, model)
        return [scaled_loss(loss, y[task], predictions[task]) for task, loss in losses.items()]

    return forward


def _run(model: keras.Layer, x: Nested) -> Any:
    try:
        return model(x, training=False)
    except Exception as error:
        raise not_taken(x, error) from error


def _check_predictions(predictions: Nested, losses: TaskLosses, model: keras.Layer) -> None:
    if not (isinstance(predictions, Mapping) and set(losses) <= set(predictions)):
        found = list(predictions) if isinstance(predictions, Mapping) else predictions
        raise ValueError(
            f"model must return a dict by task, with the keys {list(losses)}. "
            f"Received: model={model!r}, which returns {found!r}"
        )


def _cosines(gradients: list[np.ndarray], tasks: int) -> np.ndarray:
    """The cosines `(tasks, tasks)` of what arrays `(tasks, ...)` are together.

    NaN for a task whose gradient is 0, and where one is not finite.
    """
    with np.errstate(invalid="ignore"):
        products = np.zeros((tasks, tasks))
        for rows in (gradient.reshape(tasks, -1) for gradient in gradients):
            products += rows @ rows.T
        lengths = np.sqrt(np.diag(products))
        cosines: np.ndarray = np.clip(products / np.outer(lengths, lengths), -1, 1)
    return cosines


def _mean(batches: list[np.ndarray]) -> np.ndarray:
    """The mean of the batches, entry by entry, without those that are NaN."""
    stack = np.stack(batches)
    count = np.count_nonzero(~np.isnan(stack), axis=0)
    return np.where(count, np.nansum(stack, axis=0) / np.maximum(count, 1), math.nan)
