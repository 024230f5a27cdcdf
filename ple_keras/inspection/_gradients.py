"""The gradients of several losses at once, on each backend."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import keras
import numpy as np

from ple_keras._typing import Nested, Tensor
from ple_keras.inspection.batches import to_numpy

Probe = Callable[[str, Tensor], Tensor]
Batch = tuple[Nested, dict[str, Tensor]]  # features, and labels by task
Losses = Callable[[Batch, Probe], list[Tensor]]
Gradients = tuple[list[np.ndarray], dict[str, np.ndarray]]


def gradient_function(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Gradients]:
    """A function from a batch to the gradients of the losses of that batch; no state changes.

    Args:
        losses: From a batch and a probe to scalars. The probe takes a name and a tensor, and
            returns the tensor to go on with; the gradient is for what is made of that one.
        variables: The variables that gradients are for.
        model: The layer that holds all variables that `losses` reads.

    Returns:
        A function to float64 arrays `(losses, *shape)`: a list for the variables, and a dict for
        the probed tensors, by name. 0 where a loss does not depend on it.
    """
    backends = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}
    compute = backends[keras.backend.backend()](losses, variables, model)
    return lambda batch: keras.tree.map_structure(
        lambda gradient: to_numpy(gradient).astype("float64"), compute(batch)
    )


def _of_tensorflow(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    tf: Any = import_module("tensorflow")

    def compute(batch: Batch) -> Any:
        probed = {}

        def probe(name: str, tensor: Tensor) -> Tensor:
            probed[name] = tf.identity(tensor)
            tape.watch(probed[name])
            return probed[name]

        with tf.GradientTape(persistent=True) as tape, keras.StatelessScope():
            values = losses(batch, probe)
        sources = ([variable.value for variable in variables], probed)
        gradients = [
            tape.gradient(value, sources, unconnected_gradients="zero") for value in values
        ]
        return tf.nest.map_structure(lambda *each: tf.stack(each), *gradients)

    return compute


def _of_torch(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    torch: Any = import_module("torch")

    def compute(batch: Batch) -> Any:
        probed = {}

        def probe(name: str, tensor: Tensor) -> Tensor:
            probed[name] = tensor.clone().requires_grad_()
            return probed[name]

        with torch.enable_grad(), keras.StatelessScope():
            values = losses(batch, probe)
        sources = [*(variable.value for variable in variables), *probed.values()]
        rows = [_torch_gradients(value, sources) for value in values]
        stacks = [torch.stack(each) for each in zip(*rows)]
        return stacks[: len(variables)], dict(zip(probed, stacks[len(variables) :]))

    return compute


def _torch_gradients(value: Tensor, sources: list[Tensor]) -> list[Tensor]:
    torch: Any = import_module("torch")

    if not (sources and value.requires_grad):
        return [torch.zeros_like(source) for source in sources]
    gradients = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(s) if g is None else g for s, g in zip(sources, gradients)]


def _of_jax(
    losses: Losses, variables: list[keras.Variable], model: keras.Layer
) -> Callable[[Batch], Any]:
    jax: Any = import_module("jax")
    jnp = jax.numpy

    asked = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in asked]

    def run(values: list[Tensor], rest: list[Tensor], batch: Batch, probe: Probe) -> Tensor:
        state = zip([*variables, *others], [*values, *rest])
        with keras.StatelessScope(list(state)):
            return jnp.stack(losses(batch, probe))

    def probed(values: Tensor, rest: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        tensors = {}

        def probe(name: str, tensor: Tensor) -> Tensor:
            tensors[name] = tensor
            return tensor

        run(values, rest, batch, probe)
        return tensors

    def compute(values: Tensor, rest: list[Tensor], batch: Batch) -> Any:
        shapes = jax.eval_shape(probed, values, rest, batch)
        deltas = jax.tree.map(jnp.zeros_like, shapes)

        def moved(values: list[Tensor], deltas: Mapping[str, Tensor]) -> Tensor:
            return run(values, rest, batch, lambda name, tensor: tensor + deltas[name])

        return jax.jacrev(moved, argnums=(0, 1))(values, deltas)

    if getattr(model, "jit_compile", True) and not getattr(model, "run_eagerly", False):
        compute = jax.jit(compute)
    return lambda batch: compute([v.value for v in variables], [v.value for v in others], batch)
