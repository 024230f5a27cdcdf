"""Traces whose values must not be written to a layer's state."""

from importlib import import_module
from typing import Any

import keras

from ple_keras._keras.internals import in_stateless_scope
from ple_keras._typing import Tensor


def is_jax_trace_outside_keras(value: Tensor) -> bool:
    """Return whether `value` is a JAX tracer in a trace from which Keras returns no state.

    Keras's own steps return new state from the traced function. The trace of an exporter or of
    a user's `jax.jit` does not. A variable would keep the tracer, and each later call would fail.
    """
    if keras.backend.backend() != "jax" or in_stateless_scope():
        return False
    jax: Any = import_module("jax")
    return isinstance(value, jax.core.Tracer)
