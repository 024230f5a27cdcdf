"""Registration of classes and functions with Keras."""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

T = TypeVar("T", bound=Callable[..., Any])


def register(cls: T) -> T:
    """Register a class or function, so that `import ple_keras` is enough to load files with it."""
    registered: T = keras.saving.register_keras_serializable(package="ple_keras")(cls)
    return registered
