"""Copies of layers, each with its own weights, random seeds and name."""

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._keras.children import remove_build_shapes
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.internals import (
    SHARED_ID_KEY,
    has_automatic_config,
    is_of_keras,
    tensorflow_not_imported,
)
from ple_keras._typing import Initializer


def derive_seed(seed: int, *path: object) -> int:
    """Return a seed that depends only on `seed` and `path`, so that it is the same in every run."""
    digest = hashlib.sha256(repr((seed, *map(str, path))).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def derive_initializer(initializer: Initializer, *path: object) -> Any:
    """Return an initializer of the same class that draws other values.

    A Keras initializer returns the same values at every call, so each weight needs its own.
    An integer seed is derived for `path`. Without a seed, the copy draws a new one. Functions
    have no state and are returned unchanged.
    """
    if not isinstance(initializer, keras.Initializer):
        return initializer
    return type(initializer).from_config(_reseed(initializer.get_config(), path))


def copy_layer(
    layer: keras.Layer, name: str, *path: object, replaced: Mapping[int, keras.Layer] | None = None
) -> keras.Layer:
    """Return a copy of `layer` with new weights and the name `name`.

    The copy is unbuilt, except for a Functional model, which is built within the current name
    scope. Seeds in the config are derived for `path`. Copies for different paths therefore start
    with different weights, and with the same weights in every run.

    Args:
        layer: The layer.
        name: The name of the copy.
        *path: The place of the copy.
        replaced: Layers to use instead of copies, by the id of a layer of a Functional or
            Sequential model. Several copies can share them.

    Raises:
        TypeError: If the layer's `__init__` takes parameters that its config lacks, or if the
            layer is or contains a Lambda.
    """
    with keras.name_scope(name), tensorflow_not_imported():
        if is_graph(layer):
            return _clone_model(layer, name, path, replaced or {})
        if isinstance(layer, keras.layers.Lambda):
            raise TypeError("the config of a Lambda does not keep its function.")
        if isinstance(layer, keras.Layer):
            refuse_lost_arguments(layer)
        config = remove_build_shapes(layer.get_config(), keep_marked=False)
        return type(layer).from_config({**_reseed(config, path), "name": name})


def check_copyable(layer: keras.Layer, argument: str) -> None:
    """Check that a template can be copied."""
    try:
        copy_layer(layer, layer.name)
    except Exception as error:
        reason = str(error).rstrip(" .\n")
        raise ValueError(
            f"{argument} must be a layer that can be copied through its config: {reason}. "
            f"{_copy_remedy(error)} Received: {argument}={layer!r}"
        ) from error


def _copy_remedy(error: Exception) -> str:
    if "unexpected keyword argument" in str(error):  # Keras wraps Python's TypeError as text
        return (
            "Let this __init__ take **kwargs and pass them to super().__init__, because each copy "
            "gets Keras's layer arguments, such as its name."
        )
    return (
        "Give it get_config, register its class with keras.saving.register_keras_serializable, "
        "and replace a Lambda by a custom layer."
    )


def is_graph(layer: keras.Layer) -> bool:
    """Return whether a layer is a Functional or Sequential model."""
    is_functional = isinstance(layer, keras.Model) and isinstance(layer, keras.Function)
    return isinstance(layer, keras.Sequential) or is_functional


def _clone_model(
    model: keras.Layer, name: str, path: tuple[object, ...], replaced: Mapping[int, keras.Layer]
) -> keras.Model:
    """Return a copy of a model. Seeds depend on the position of layers, as names may repeat."""
    copied = 0

    def clone(layer: keras.Layer) -> keras.Layer:
        nonlocal copied
        if id(layer) in replaced:
            return replaced[id(layer)]
        copied += 1
        return copy_layer(layer, layer.name, *path, copied, replaced=replaced)

    if type(model) is keras.Sequential:  # unbuilt, so that paths are as in other layers
        layers = [clone(layer) for layer in model.layers]
        return keras.Sequential([*_uncast_input(model), *layers], name=name)
    model = keras.models.clone_model(model, clone_function=clone)
    model.name = name
    return model


def _uncast_input(model: keras.Sequential) -> list[keras.KerasTensor]:
    """Return the input of a Sequential if it has integers or strings.

    Without it, the copy would cast them to its compute dtype, which has no room for large integers.
    """
    inputs = getattr(model, "inputs", [])  # an unbuilt one has none
    return [
        keras.Input(batch_shape=given.shape, dtype=given.dtype)
        for given in inputs
        if not keras.backend.is_float_dtype(given.dtype)
    ]


def refuse_lost_arguments(copied: keras.Layer | keras.Metric) -> None:
    """Raise an error if a copy would lose arguments of the constructor.

    A subclass that inherits get_config loses the arguments that it adds, without an error.

    Args:
        copied: A layer or metric.

    Raises:
        TypeError: If its `__init__` takes parameters that its config lacks.
    """
    cls, base = type(copied), keras.Layer if isinstance(copied, keras.Layer) else keras.Metric
    if has_automatic_config(copied):
        return
    standard = [inspect.getattr_static(x, "from_config").__func__ for x in (base, FreezableLayer)]
    if cls.from_config.__func__ not in standard:
        return  # the class has its own mapping from config to arguments
    arguments = {*copied.get_config()}
    for base in cls.__mro__:
        if is_of_keras(base):
            arguments.update(_init_parameters(base))  # Keras's own layers omit unset ones
    missing = [name for name in _init_parameters(cls) if name not in arguments]
    if missing:
        raise TypeError(
            f"{cls.__name__}.__init__ takes {missing}, which its config lacks; "
            f"give {cls.__name__} a get_config that returns them too."
        )


def _init_parameters(cls: Any) -> list[str]:
    """Return the names of the parameters of a class's `__init__`, without `self`."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _reseed(value: Any, path: tuple[object, ...]) -> Any:
    """Return a part of a config with every seed derived for `path` and its position."""
    if isinstance(value, Mapping):
        return {
            key: derive_seed(item, *path)
            if key == "seed" and isinstance(item, int)
            else _reseed(item, (*path, key))
            for key, item in value.items()
            # While Keras loads a file, one id gives one object. A copy must be a new object.
            if key != SHARED_ID_KEY
        }
    if isinstance(value, list | tuple):
        items = (_reseed(item, (*path, i)) for i, item in enumerate(value))
        return tuple(items) if isinstance(value, tuple) else list(items)
    if isinstance(value, keras.Layer):
        return copy_layer(value, value.name, *path)
    if isinstance(value, keras.random.SeedGenerator):
        return keras.random.SeedGenerator(**_reseed(value.get_config(), path))
    return derive_initializer(value, *path)
