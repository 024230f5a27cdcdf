"""Conflicts between the gradients of tasks in shared experts and inputs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import combinations
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_by_task, short_repr
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import to_numpy
from ple_keras._keras.walking import find_layers
from ple_keras._typing import Nested, Streams, Tensor
from ple_keras.heads.batch_loss import batch_loss
from ple_keras.heads.task_heads import HeldBranches, TaskHeads, find_heads
from ple_keras.inspection._observed_model import (
    empty_data_error,
    failed_batch_error,
    holding_branches,
    repeated_run_error,
)
from ple_keras.inspection.levels import built_levels
from ple_keras.labels.alignment import check_dtype
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.observation import Observer
from ple_keras.losses.masked_loss import MaskedLoss

INPUT = "input"
Levels = Mapping[str, CGCBlock]
Place = tuple[str, str]  # a level and one of its shared experts, or "input"
Cosines = dict[tuple[str, str], float]
TaskLoss = Callable[..., Any]  # a HeadLoss, or a loss that a model was compiled with
TaskLosses = Mapping[str, TaskLoss]
ObserveInput = Callable[[str, Tensor], Tensor]  # of a level's input
Batch = tuple[Nested, dict[str, Tensor]]  # features, and labels by task
Losses = Callable[[Batch, ObserveInput], list[Tensor]]
Gradients = tuple[list[np.ndarray], dict[str, np.ndarray]]


def gradient_conflict(
    model: keras.Layer, x: Nested, y: Nested = None, batch_size: int | None = None
) -> dict[str, dict[str, Cosines]]:
    """Return the cosines between the gradients of the tasks' losses in each level.

    1: two tasks have the same gradient direction. 0: the tasks do not interact. Below 0: the tasks
    conflict; a step that helps one harms the other. If shared experts have conflicts, try more task
    experts.

    The gradients are those of the heads' losses over the labeled examples of a batch, without
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
    batches = Batches(x, y, batch_size, default=None)
    levels = built_levels(model)
    losses = task_losses(model, levels)
    cosines_of = _cosine_function(model, levels, losses)
    by_batch = [cosines_of(features, select_labels(y, losses)) for features, y in batches]
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


def select_labels(y: Nested, losses: Mapping[str, object]) -> dict[str, Any]:
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
            places[place] = [by_variable[id(v)][:, *index] for v, index in of_expert]
        return {place: _cosines(arrays, len(losses)) for place, arrays in places.items()}

    return cosines_of


def _loss_function(model: keras.Layer, levels: Levels, losses: TaskLosses) -> Losses:
    """Return a function from a batch to the tasks' losses that observes the levels' inputs."""
    names = {id(block): level for level, block in levels.items()}

    def losses_of(batch: Batch, observe: ObserveInput) -> list[Tensor]:
        with Observer(names, partial(_observe_tensor, levels, observe)) as observer:
            values = losses_of_batch(model, losses, batch)
        if observer.repeated:
            raise repeated_run_error(model, observer.repeated)
        return values

    return losses_of


def losses_of_batch(model: keras.Layer, losses: TaskLosses, batch: Batch) -> list[Tensor]:
    """Return the scaled loss of each task, see `loss_scale`."""
    x, y = batch
    with holding_branches(model) as take_branches:
        predictions = _predict(model, x)
        held = take_branches()
    _check_predictions(predictions, losses, model)
    values = []
    for task, loss in losses.items():
        prediction, scale = predictions[task], loss_scale(math.prod(predictions[task].shape[:-1]))
        if isinstance(loss, HeadLoss) and task in held:
            value = loss(y[task], prediction, held[task])
        else:
            value = ops.mean(loss(y[task], prediction))
        values.append(scale * value)
    return values


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


@dataclass(frozen=True)
class HeadLoss:
    """The loss of a head over labeled examples, without its weight."""

    head: Any

    def __call__(self, y_true: Tensor, y_pred: Tensor, held: HeldBranches | None = None) -> Tensor:
        """Return the loss.

        Args:
            y_true: The labels.
            y_pred: The predictions.
            held: The branches of the predictions, which are trained in their place.
        """
        branches = held and self.head.branch_predictions(held.values)
        return batch_loss(self.head, y_true, y_pred, None, branches).loss.value


def task_losses(model: keras.Layer, levels: Levels) -> TaskLosses:
    """Return the loss of each trained task, in task order."""
    heads = find_heads(model)
    compiled = getattr(model, "loss", None)
    losses: dict[str, Any] = {task: HeadLoss(h) for task, h in heads.items() if h.has_loss}
    if isinstance(compiled, Mapping):
        losses = {task: _compiled_loss(task, loss) for task, loss in compiled.items()}
    elif compiled is not None:
        raise ValueError(
            "model must be compiled with a dict of losses by task. "
            f"Received: model.loss={compiled!r}"
        )
    tasks = [task for layer in find_layers(model, TaskHeads) for task in layer.trained_tasks]
    tasks += [task for block in levels.values() for task in block.task_names]
    tasks = [task for task in dict.fromkeys([*tasks, *losses]) if losses.get(task) is not None]
    if not tasks:
        raise ValueError(
            "model must have TaskHeads, or be compiled with a dict of losses by task. "
            f"Received: model={model!r}, model.loss={compiled!r}"
        )
    return {task: losses[task] for task in tasks}


def _compiled_loss(task: str, loss: Nested) -> Any:
    """Return the compiled loss of a task, without its loss weight."""
    losses = [item for item in keras.tree.flatten(loss) if item is not None]
    if len(losses) > 1:
        raise ValueError(
            f"model must be compiled with one loss per task. Received: loss[{task!r}]={loss!r}"
        )
    found = keras.losses.get(losses[0] if losses else None)
    return found if found is None or isinstance(found, keras.Loss) else MaskedLoss(found)


def loss_scale(examples: int) -> float:
    """Return a power of 2 near the square root of the number of examples, to scale a loss by.

    In float16, gradients of a mean over many examples underflow, and those of a sum overflow; the
    square root keeps both in range. A power of 2 adds no rounding error. Cosines are invariant to
    this scale.
    """
    return 2.0 ** round(math.log2(max(examples, 1)) / 2)


def gradient_function(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Gradients]:
    """Return a function from a batch to the gradients of its losses. It changes no state.

    Args:
        losses: Takes a batch and a function `observe`, and returns scalars. `observe` takes a
            name and a tensor. It returns the tensor to use instead, whose gradient is computed.
        variables: The variables to differentiate by.
        model: The layer that holds all variables that `losses` reads.

    Returns:
        A function that returns float64 arrays `(losses, *shape)`: a list for the variables, and a
        dict by name for the observed tensors. A gradient is 0 if the loss does not depend on it.
    """
    functions = {"tensorflow": _tensorflow_function, "jax": _jax_function, "torch": _torch_function}
    gradients_of = functions[keras.backend.backend()](losses, variables, model)
    return lambda batch: keras.tree.map_structure(
        lambda gradient: to_numpy(gradient).astype("float64"), gradients_of(batch)
    )


def _tensorflow_function(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    tf: Any = import_module("tensorflow")

    def gradients_of(batch: Batch) -> Any:
        observed = {}

        def observe(name: str, tensor: Tensor) -> Tensor:
            observed[name] = tf.identity(tensor)
            tape.watch(observed[name])
            return observed[name]

        with tf.GradientTape(persistent=True) as tape, keras.StatelessScope():
            values = losses(batch, observe)
        sources = ([variable.value for variable in variables], observed)
        gradients = [
            tape.gradient(value, sources, unconnected_gradients="zero") for value in values
        ]
        return tf.nest.map_structure(lambda *by_loss: tf.stack(by_loss), *gradients)

    return gradients_of


def _torch_function(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    torch: Any = import_module("torch")

    def gradients_of(batch: Batch) -> Any:
        observed = {}

        def observe(name: str, tensor: Tensor) -> Tensor:
            observed[name] = tensor.clone().requires_grad_()
            return observed[name]

        with torch.enable_grad(), keras.StatelessScope():
            values = losses(batch, observe)
        sources = [*(variable.value for variable in variables), *observed.values()]
        rows = [_torch_gradients(value, sources) for value in values]
        stacks = [torch.stack(by_loss) for by_loss in zip(*rows)]
        return stacks[: len(variables)], dict(zip(observed, stacks[len(variables) :]))

    return gradients_of


def _torch_gradients(value: Tensor, sources: list[Tensor]) -> list[Tensor]:
    torch: Any = import_module("torch")

    if not (sources and value.requires_grad):
        return [torch.zeros_like(source) for source in sources]
    gradients = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(s) if g is None else g.to_dense() for s, g in zip(sources, gradients)]


def _jax_function(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    jax: Any = import_module("jax")
    jnp = jax.numpy

    variable_ids = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in variable_ids]

    def run(
        values: list[Tensor], rest: list[Tensor], batch: Batch, observe: ObserveInput
    ) -> Tensor:
        state = zip([*variables, *others], [*values, *rest])
        with keras.StatelessScope(list(state)):
            return jnp.stack(losses(batch, observe))

    def observed(values: Tensor, rest: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        tensors = {}

        def observe(name: str, tensor: Tensor) -> Tensor:
            tensors[name] = tensor
            return tensor

        run(values, rest, batch, observe)
        return tensors

    def gradients_of(values: Tensor, rest: list[Tensor], batch: Batch) -> Any:
        shapes = jax.eval_shape(observed, values, rest, batch)
        deltas = jax.tree.map(jnp.zeros_like, shapes)
        if not (values or deltas):  # jacrev needs one
            return [], {}

        def run_shifted(values: list[Tensor], deltas: Mapping[str, Tensor]) -> Tensor:
            return run(values, rest, batch, lambda name, tensor: tensor + deltas[name])

        return jax.jacrev(run_shifted, argnums=(0, 1))(values, deltas)

    if getattr(model, "jit_compile", True) and not getattr(model, "run_eagerly", False):
        gradients_of = jax.jit(gradients_of)
    return lambda batch: gradients_of(
        [v.value for v in variables], [v.value for v in others], batch
    )
