"""Gradients of several losses at once, on each backend."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import keras
import numpy as np

from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested, Tensor

ObserveInput = Callable[[str, Tensor], Tensor]
Batch = tuple[Nested, dict[str, Tensor]]  # features, and labels by task
Losses = Callable[[Batch, ObserveInput], list[Tensor]]
Gradients = tuple[list[np.ndarray], dict[str, np.ndarray]]


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
    backends = {"tensorflow": _tensorflow_function, "jax": _jax_function, "torch": _torch_function}
    compute = backends[keras.backend.backend()](losses, variables, model)
    return lambda batch: keras.tree.map_structure(
        lambda gradient: to_numpy(gradient).astype("float64"), compute(batch)
    )


def _tensorflow_function(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    tf: Any = import_module("tensorflow")

    def compute(batch: Batch) -> Any:
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

    return compute


def _torch_function(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    torch: Any = import_module("torch")

    def compute(batch: Batch) -> Any:
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

    return compute


def _torch_gradients(value: Tensor, sources: list[Tensor]) -> list[Tensor]:
    torch: Any = import_module("torch")

    if not (sources and value.requires_grad):
        return [torch.zeros_like(source) for source in sources]
    gradients = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(s) if g is None else g for s, g in zip(sources, gradients)]


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

    def compute(values: Tensor, rest: list[Tensor], batch: Batch) -> Any:
        shapes = jax.eval_shape(observed, values, rest, batch)
        deltas = jax.tree.map(jnp.zeros_like, shapes)

        def run_shifted(values: list[Tensor], deltas: Mapping[str, Tensor]) -> Tensor:
            return run(values, rest, batch, lambda name, tensor: tensor + deltas[name])

        return jax.jacrev(run_shifted, argnums=(0, 1))(values, deltas)

    if getattr(model, "jit_compile", True) and not getattr(model, "run_eagerly", False):
        compute = jax.jit(compute)
    return lambda batch: compute([v.value for v in variables], [v.value for v in others], batch)
