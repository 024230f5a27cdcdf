"""Whether a value may be written to a layer's state."""

from importlib import import_module
from typing import Any

import keras

from ple_keras._keras.internals import in_stateless_scope
from ple_keras._typing import Tensor


def is_foreign_jax_trace(value: Tensor) -> bool:
    """Whether `value` is JAX's placeholder in a trace that Keras takes no state out of.

    Keras's own steps hand new state out of what JAX traces. An exporter's trace, or a user's
    `jax.jit`, does not: a variable would keep the placeholder, and the model fail ever after.
    """
    if keras.backend.backend() != "jax" or in_stateless_scope():
        return False
    jax: Any = import_module("jax")
    return isinstance(value, jax.core.Tracer)
