"""Registered names, and entries of files."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import keras
import numpy as np

from ple_keras._keras.internals import is_functional_config, load_error, without_build_keys
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Config, Store

T = TypeVar("T", bound=Callable[..., Any])
NAMES_KEY = "names"
SEED_KEY = "seed"


def register(cls: T) -> T:
    """Register a class or function, so that `import ple_keras` is enough to load files with it."""
    return cast(T, keras.saving.register_keras_serializable(package="ple_keras")(cls))


# Keras writes the shapes of a layer next to its config and builds the layer when it deserializes
# it, before it has a parent. The paths of its weights then lack the names of the outer layers. On
# PyTorch, two weights with the same path are one parameter and are trained wrongly. The containers
# of this package therefore deserialize their children unbuilt. They build them in `build`, within
# their own name scope.


def serialize_layers(layers: Iterable[keras.Layer]) -> list[Config]:
    """Serialize a container's children without the shapes that they were built with."""
    return [remove_build_shapes(keras.saving.serialize_keras_object(layer)) for layer in layers]


def remove_build_shapes(config: Any) -> Any:
    """Return a config without the shapes that layers were built with, at any depth.

    A Functional model, whose config is its graph, remains unchanged.
    """
    if isinstance(config, list | tuple):
        return type(config)(map(remove_build_shapes, config))
    if not isinstance(config, Mapping):
        return config
    if is_functional_config(config):
        return dict(config)
    if "class_name" in config or "layers" in config:  # a layer, and no dict keyed by task
        config = without_build_keys(config)
    return {key: remove_build_shapes(value) for key, value in config.items()}


def save_names(store: Store, names: Sequence[str]) -> None:
    """Write the names that `check_names` compares."""
    # Files can contain only arrays.
    store[NAMES_KEY] = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)


def check_names(store: Store, names: Sequence[str], layer: keras.Layer) -> None:
    """Check that a file was written by a layer with the same names in the same order.

    Stacked kernels, the columns of the shared gate and the optimizer's moments have this order.
    Loading them in a different order would silently swap tasks.

    Raises:
        ValueError: If the names or their order differ, or the file has no names.
    """
    saved = None
    if NAMES_KEY in list(store.keys()):
        saved = np.asarray(store[NAMES_KEY]).tobytes().decode().split("\n")
    if saved != list(names):
        reason = (
            f"The file was written by a layer with {saved}, in this order, but {layer.name!r} has "
            f"{list(names)}. Received: names={saved}"
        )
        raise load_error(layer, store, reason)


def ordered_attribute(name: str, members: Sequence[str]) -> str:
    """Return the name of an attribute for weights in the order of `members`.

    With `skip_mismatch`, Keras ignores the error of `check_names` and loads the inner layers by
    attribute name. Weights in a different order need a different name, so that they do not load.
    """
    digest = hashlib.sha256("\n".join(members).encode()).hexdigest()
    return f"{name}-{digest[:8]}"


def save_seed(store: Store, generator: keras.random.SeedGenerator) -> None:
    """Write the state of a generator, which Keras does not save."""
    store[SEED_KEY] = to_numpy(generator.state).astype("int64")  # one dtype for all backends


def load_seed(store: Store, generator: keras.random.SeedGenerator) -> None:
    """Set a generator to the state in a file, if the file contains it."""
    if SEED_KEY in list(store.keys()):
        generator.state.assign(np.asarray(store[SEED_KEY]).astype(generator.state.dtype))
