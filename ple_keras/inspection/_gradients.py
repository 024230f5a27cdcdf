"""The gradients of several losses at once, on each backend."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import keras
import numpy as np

Probe = Callable[[str, Any], Any]
Losses = Callable[[Any, Probe], list[Any]]
Gradients = tuple[list[np.ndarray], dict[str, np.ndarray]]


def gradient_function(
    losses: Losses, variables: list[Any], model: Any
) -> Callable[[Any], Gradients]:
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
    return lambda batch: keras.tree.map_structure(_to_numpy, compute(batch))


def _to_numpy(gradient: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(gradient), dtype="float64")


def _of_tensorflow(losses: Losses, variables: list[Any], model: Any) -> Callable[[Any], Any]:
    tf: Any = import_module("tensorflow")

    def compute(batch: Any) -> Any:
        probed = {}

        def probe(name: str, tensor: Any) -> Any:
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


def _of_torch(losses: Losses, variables: list[Any], model: Any) -> Callable[[Any], Any]:
    torch: Any = import_module("torch")

    def compute(batch: Any) -> Any:
        probed = {}

        def probe(name: str, tensor: Any) -> Any:
            probed[name] = tensor.clone().requires_grad_()
            return probed[name]

        with torch.enable_grad(), keras.StatelessScope():
            values = losses(batch, probe)
        sources = [*(variable.value for variable in variables), *probed.values()]
        rows = [_torch_gradients(value, sources) for value in values]
        stacks = [torch.stack(each) for each in zip(*rows)]
        return stacks[: len(variables)], dict(zip(probed, stacks[len(variables) :]))

    return compute


def _torch_gradients(value: Any, sources: list[Any]) -> list[Any]:
    torch: Any = import_module("torch")

    if not (sources and value.requires_grad):
        return [torch.zeros_like(source) for source in sources]
    gradients = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(s) if g is None else g for s, g in zip(sources, gradients)]


def _of_jax(losses: Losses, variables: list[Any], model: Any) -> Callable[[Any], Any]:
    jax: Any = import_module("jax")
    jnp = jax.numpy

    asked = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in asked]

    def run(values: Any, rest: Any, batch: Any, probe: Probe) -> Any:
        state = zip([*variables, *others], [*values, *rest])
        with keras.StatelessScope(list(state)):
            return jnp.stack(losses(batch, probe))

    def probed(values: Any, rest: Any, batch: Any) -> dict[str, Any]:
        tensors = {}

        def probe(name: str, tensor: Any) -> Any:
            tensors[name] = tensor
            return tensor

        run(values, rest, batch, probe)
        return tensors

    def compute(values: Any, rest: Any, batch: Any) -> Any:
        shapes = jax.eval_shape(probed, values, rest, batch)
        deltas = jax.tree.map(jnp.zeros_like, shapes)

        def moved(values: Any, deltas: Any) -> Any:
            return run(values, rest, batch, lambda name, tensor: tensor + deltas[name])

        return jax.jacrev(moved, argnums=(0, 1))(values, deltas)

    if getattr(model, "jit_compile", True) and not getattr(model, "run_eagerly", False):
        compute = jax.jit(compute)
    return lambda batch: compute([v.value for v in variables], [v.value for v in others], batch)
