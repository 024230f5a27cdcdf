"""Registering classes with Keras under the package's name."""

from typing import TypeVar

import keras

T = TypeVar("T", bound=type)


def register(cls: T) -> T:
    """Make `cls` loadable from a file after nothing but `import ple_keras`."""
    registered: T = keras.saving.register_keras_serializable(package="ple_keras")(cls)
    return registered
