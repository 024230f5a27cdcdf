"""Where the tasks pull the weights that they share in opposite directions."""

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import SHARED
from ple_keras._keras.walking import find_layers
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.inspection._gradients import Losses, Probe, gradient_function
from ple_keras.inspection.batches import Batches
from ple_keras.inspection.levels import built_levels
from ple_keras.layers._level.observer import Observer, observed_by
from ple_keras.layers._level.parts import expert_parts
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.losses.joint_losses import TrainedLoss
from ple_keras.losses.masked_loss import MaskedLoss

INPUT = "input"
Levels = Mapping[str, CGCBlock]
TaskLosses = Mapping[str, Callable[..., Any]]
Place = tuple[str, str]  # a level and one of its shared experts, or "input"
Cosines = dict[tuple[str, str], float]


def gradient_conflict(
    model: Any, x: Any, y: Any = None, batch_size: int | None = None
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


def conflict_in(model: Any, batches: Batches) -> dict[str, dict[str, Cosines]]:
    """As `gradient_conflict`, of batches of `(x, y)`."""
    levels = built_levels(model)
    losses = _task_losses(model, levels)
    measure = _cosine_function(model, levels, losses)
    found = [measure(features, _labels(labels, losses)) for features, labels in batches]
    if not found:
        raise ValueError(f"x must hold at least one batch. Received: x={batches.given!r}")
    conflict: dict[str, dict[str, Cosines]] = {level: {} for level in levels}
    for level, name in found[0]:
        cosines = _mean([batch[level, name] for batch in found])
        conflict[level][name] = {
            (first, second): float(cosines[i, j])
            for (i, first), (j, second) in combinations(enumerate(losses), 2)
        }
    return conflict


def _task_losses(model: Any, levels: Levels) -> TaskLosses:
    """The loss of each task that is trained, in task order."""
    heads = {head.task: head for head in find_layers(model, Head)}
    compiled = getattr(model, "loss", None)
    if isinstance(compiled, Mapping):
        losses = {task: _compiled_loss(task, loss, heads) for task, loss in compiled.items()}
    elif compiled is not None:
        raise ValueError(
            "model must be compiled with losses by task, in a dict. "
            f"Received: model.loss={compiled!r}"
        )
    else:
        losses = {task: head.new_loss() for task, head in heads.items()}
    tasks = [task for layer in find_layers(model, TaskHeads) for task in layer.trained_tasks]
    tasks += [task for block in levels.values() for task in block.task_names]
    tasks = [task for task in dict.fromkeys([*tasks, *losses]) if losses.get(task) is not None]
    if not tasks:
        raise ValueError(
            "model must have losses by task: those of TaskHeads, or those that it was compiled "
            f"with as a dict by task. Received: model={model!r}, model.loss={compiled!r}"
        )
    return {task: losses[task] for task in tasks}


def _compiled_loss(task: str, loss: Any, heads: Mapping[str, Head]) -> Any:
    """The head's own loss where that is what was compiled, without its weight."""
    losses = [one for one in keras.tree.flatten(loss) if one is not None]
    if task in heads and any(isinstance(one, TrainedLoss) for one in losses):
        return heads[task].new_loss()
    if len(losses) > 1:
        raise ValueError(
            f"model must be compiled with one loss for each task. Received: loss[{task!r}]={loss!r}"
        )
    known = keras.losses.get(losses[0] if losses else None)
    return known if known is None or isinstance(known, keras.Loss) else MaskedLoss(known)


def _labels(y: Any, losses: TaskLosses) -> dict[str, Any]:
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
    model: Any, levels: Levels, losses: TaskLosses
) -> Callable[[Any, Any], dict[Place, np.ndarray]]:
    """From a batch's x and y to the cosines `(tasks, tasks)` at each place."""
    parts = {
        (level, expert): [(v, where) for v, where in expert_parts(block)[expert] if v.trainable]
        for level, block in levels.items()
        for expert in block.expert_names
        if expert.startswith(f"{SHARED}/")
    }
    variables = {id(v): v for of_expert in parts.values() for v, _ in of_expert}
    gradients = gradient_function(_forward(model, levels, losses), [*variables.values()], model)

    def measure(x: Any, y: Any) -> dict[Place, np.ndarray]:
        of_variables, of_inputs = gradients((x, y))
        by_variable = dict(zip(variables, of_variables))
        places = {(level, INPUT): [gradient] for level, gradient in of_inputs.items()}
        for place, of_expert in parts.items():
            places[place] = [_of_expert(by_variable[id(v)], where) for v, where in of_expert]
        return {place: _cosines(arrays, len(losses)) for place, arrays in places.items()}

    return measure


def _of_expert(gradients: np.ndarray, where: tuple[Any, ...]) -> np.ndarray:
    """The part of the tasks' gradients for a stack, `(tasks, ...)`, that is one expert's."""
    part: np.ndarray = gradients[(slice(None), *where)]
    return part


def _forward(model: Any, levels: Levels, losses: TaskLosses) -> Losses:
    """The tasks' losses in a batch, with a probe on what each level reads."""
    names = {id(block): level for level, block in levels.items()}

    def forward(batch: Any, probe: Probe) -> list[Any]:
        x, y = batch
        prober = _Prober(names, probe)
        with observed_by(prober):
            predictions = _run(model, x)
        if prober.repeated:
            raise ValueError(
                "model must run each block once, since the inputs of several runs can't be told "
                f"apart. Received: model={model!r}, which runs {prober.repeated} more than once"
            )
        _check_predictions(predictions, losses, model)
        return [_scaled(loss, y[task], predictions[task]) for task, loss in losses.items()]

    return forward


def _run(model: Any, x: Any) -> Any:
    try:
        return model(x, training=False)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda array: tuple(array.shape), x)
        raise ValueError(
            f"x must be what the model takes, which can't run on a batch of it: {error} "
            f"Received: x.shape={shapes}"
        ) from error


class _Prober(Observer):
    """Puts a probe on the tensor that a level reads, where it is one for all streams."""

    def __init__(self, names: Mapping[int, str], probe: Probe) -> None:
        self._names, self._probe = names, probe
        self._seen: set[str] = set()
        self.repeated: list[str] = []

    def read(self, block: Any, inputs: Any) -> Any:
        level = self._names[id(block)]
        if level in self._seen:
            self.repeated.append(level)
        elif not isinstance(inputs, Mapping):
            if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
                inputs = ops.cast(inputs, block.compute_dtype)  # integers have no gradient
            inputs = _KeepMask(lambda tensor: self._probe(level, tensor))(inputs)
        self._seen.add(level)
        return inputs


class _KeepMask(keras.layers.Layer):
    """A function of a tensor, as a layer, for Keras to hand the tensor's mask on."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self._function = function

    def call(self, inputs: Any) -> Any:
        return self._function(inputs)


def _check_predictions(predictions: Any, losses: TaskLosses, model: Any) -> None:
    if not (isinstance(predictions, Mapping) and set(losses) <= set(predictions)):
        found = list(predictions) if isinstance(predictions, Mapping) else predictions
        raise ValueError(
            f"model must return a dict by task, with the keys {list(losses)}. "
            f"Received: model={model!r}, which returns {found!r}"
        )


def _scaled(loss: Callable[..., Any], labels: Any, predictions: Any) -> Any:
    """A task's loss times about the square root of the number of examples.

    No cosine minds. But in float16 the gradient of one example in the mean of many falls to 0, and
    their sum would overflow; the square root keeps both in range, and a power of 2 rounds nothing.
    """
    examples = max(math.prod(predictions.shape[:-1]), 1)
    return 2.0 ** round(math.log2(examples) / 2) * ops.mean(loss(labels, predictions))


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
