"""Registering classes and functions with Keras under the package's name."""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

T = TypeVar("T", bound=Callable[..., Any])


def register(cls: T) -> T:
    """Make a class or function loadable from a file after nothing but `import ple_keras`."""
    registered: T = keras.saving.register_keras_serializable(package="ple_keras")(cls)
    return registered
