"""Traces of JAX in which Keras does not replace the variables."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import keras

from ple_keras._keras.internals import has_stateless_value, in_stateless_scope
from ple_keras._typing import Tensor


def is_jax_trace_outside_keras(value: Tensor) -> bool:
    """Return whether `value` is a JAX tracer in a trace from which Keras returns no state.

    Keras's own steps return new state from the traced function. The trace of an exporter or of
    a user's `jax.jit` does not. A variable would keep the tracer, and each later call would fail.
    """
    return not in_stateless_scope() and _is_jax_tracer(value)


def is_constant_in_jax_trace(variable: keras.Variable, values: Iterable[Tensor]) -> bool:
    """Return whether a variable is a constant of the JAX trace that computes `values`.

    Its gradient is then 0, and a compiled program keeps its value. A `keras.StatelessScope` that
    has a value of the variable prevents this.
    """
    return any(map(_is_jax_tracer, values)) and not has_stateless_value(variable)


def _is_jax_tracer(value: Tensor) -> bool:
    if keras.backend.backend() != "jax":
        return False
    jax: Any = import_module("jax")
    return isinstance(value, jax.core.Tracer)


def is_in_vectorized_map(value: Tensor) -> bool:
    """Return whether `value` is computed for all elements of a `keras.ops.vectorized_map` at once.

    A variable cannot take the updates of all elements: PyTorch raises an error, TensorFlow updates
    it for the first element, and JAX leaves a tracer in it.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        torch: Any = import_module("torch")
        return bool(torch._C._functorch.is_batchedtensor(value))
    if backend == "jax":
        return type(value).__name__ == "BatchTracer"  # a class that JAX does not export
    tf: Any = import_module("tensorflow")
    return "loop_body" in tf.get_current_name_scope().split("/")  # the only trace of it
