"""Utilities for building, copying, saving and freezing Keras layers, and for data and tensors."""

import os

try:
    import keras as _  # noqa: F401, the first import of Keras, which imports its backend
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ple_keras requires a Keras backend. Install torch, jax or tensorflow, and set the "
        "environment variable KERAS_BACKEND to its name, by default tensorflow. "
        f"Received: KERAS_BACKEND={os.environ.get('KERAS_BACKEND')!r}; no module {error.name!r}",
        name=error.name,
    ) from error
