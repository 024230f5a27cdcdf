"""Layers as templates: copies with weights, random seeds and a name of their own."""

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._keras.building import build_on
from ple_keras._keras.children import unbuilt
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.internals import (
    SHARED_ID_KEY,
    has_automatic_config,
    is_of_keras,
    tensorflow_not_imported,
)
from ple_keras._typing import Initializer, Shape


def derive_seed(seed: int, *path: object) -> int:
    """A seed that depends on `seed` and the place `path` alone: the same in every run."""
    digest = hashlib.sha256(repr((seed, *map(str, path))).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def derive_initializer(initializer: Initializer, *path: object) -> Any:
    """An initializer of the same kind that draws other values.

    One Keras initializer returns the same values at every call, so each weight needs its own.
    A seed is derived for `path`; without one, the copy draws a new seed. Functions have no
    state and are returned as they are.
    """
    if not isinstance(initializer, keras.Initializer):
        return initializer
    return type(initializer).from_config(_reseed(initializer.get_config(), path))


def copy_layer(layer: keras.Layer, name: str, *path: object) -> keras.Layer:
    """A copy of `layer` with new weights, called `name`.

    It is unbuilt, except for a Functional model, which is built within the current name scope.
    Seeds in its config are derived for `path`, so that copies made for different places start
    different from each other, and the same in every run.

    Raises:
        TypeError: if the layer's `__init__` takes parameters that its config lacks, or if it is or
            holds a Lambda.
    """
    with keras.name_scope(name), tensorflow_not_imported():
        if isinstance(layer, keras.Sequential) or _is_functional(layer):
            return _clone_model(layer, name, path)
        if isinstance(layer, keras.layers.Lambda):
            raise TypeError("a Lambda's function does not survive its config.")
        if isinstance(layer, keras.Layer):
            refuse_lost_arguments(layer)
        config = unbuilt(layer.get_config(), keep_marked=False)
        return type(layer).from_config({**_reseed(config, path), "name": name})


def check_copyable(layer: keras.Layer, argument: str) -> None:
    """Refuse a template that cannot be copied, with what to do about it."""
    try:
        copy_layer(layer, layer.name)
    except Exception as error:
        raise ValueError(
            f"{argument} must be a layer that can be copied through its config; give it "
            "get_config (and register its class with keras.saving.register_keras_serializable), "
            f"and use a layer of your own in place of a Lambda: {error} "
            f"Received: {argument}={layer!r}"
        ) from error


def _is_functional(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.Model) and isinstance(layer, keras.Function)


def _clone_model(model: keras.Layer, name: str, path: tuple[object, ...]) -> keras.Model:
    """A Sequential or Functional model again; places inside it count, names may repeat."""
    copied = 0

    def clone(layer: keras.Layer) -> keras.Layer:
        nonlocal copied
        copied += 1
        return copy_layer(layer, layer.name, *path, copied)

    if type(model) is keras.Sequential:  # unbuilt, so that its paths are those of any other layer
        return keras.Sequential([clone(layer) for layer in model.layers], name=name)
    model = keras.models.clone_model(model, clone_function=clone)
    model.name = name
    return model


def refuse_lost_arguments(copied: keras.Layer | keras.Metric) -> None:
    """A subclass that inherits get_config loses the arguments it added, in silence.

    Args:
        copied: A layer or metric.

    Raises:
        TypeError: if its `__init__` takes parameters that its config lacks.
    """
    cls, base = type(copied), keras.Layer if isinstance(copied, keras.Layer) else keras.Metric
    if has_automatic_config(copied):
        return
    given = [inspect.getattr_static(x, "from_config").__func__ for x in (base, FreezableLayer)]
    if cls.from_config.__func__ not in given:
        return  # the class maps its config to arguments as it likes
    arguments = {*copied.get_config()}
    for base in cls.__mro__:
        if is_of_keras(base):
            arguments.update(_init_parameters(base))  # Keras's own layers leave some out unless set
    missing = [name for name in _init_parameters(cls) if name not in arguments]
    if missing:
        raise TypeError(
            f"{cls.__name__}.__init__ takes {missing}, which its config lacks; "
            f"give {cls.__name__} a get_config that returns them too."
        )


def _init_parameters(cls: Any) -> list[str]:
    """The named parameters of a class's `__init__`, without `self`."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _reseed(value: Any, path: tuple[object, ...]) -> Any:
    """`value`, part of a config, with every seed derived for `path` and for its own place."""
    if isinstance(value, Mapping):
        return {
            key: derive_seed(item, *path)
            if key == "seed" and isinstance(item, int)
            else _reseed(item, (*path, key))
            for key, item in value.items()
            # While a file is loaded, Keras hands out one object for one id; a copy is another.
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


def output_width(layer: keras.Layer, shape: Shape, argument: str) -> int:
    """The width H of what a template makes of inputs `(..., D)`, without touching it."""
    return build_on(copy_layer(layer, layer.name), tuple(shape), layer.compute_dtype, argument)
