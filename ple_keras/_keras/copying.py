"""Copies of layers, each with its own weights, random seeds and name."""

import hashlib
import inspect
from collections.abc import Mapping
from itertools import count
from typing import Any

import keras

from ple_keras._checks import first_error
from ple_keras._keras.internals import SHARED_ID_KEY, is_from_keras, tensorflow_not_imported
from ple_keras._keras.layers import layers_inside, walk
from ple_keras._keras.saving import remove_build_shapes
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Config, Initializer

REGISTER = "`@keras.saving.register_keras_serializable()`"


class Template:
    """A layer that is copied and never used itself. Keras does not track it.

    Args:
        layer: The layer.
        argument: The name of the caller's argument and config key, for error messages.
    """

    def __init__(self, layer: keras.Layer, argument: str) -> None:
        self.layer, self.argument = layer, argument

    def copy(self, name: str, *path: object) -> keras.Layer:
        """Return a copy with the name `name` and with seeds derived for `path`."""
        return copy_layer(self.layer, name, *path)

    def serialize(self) -> Config:
        return dict(keras.saving.serialize_keras_object(self.layer))


def derive_initializer(initializer: Initializer, *path: object) -> Initializer:
    """Return an initializer of the same class that draws different values.

    A Keras initializer returns the same values in every call, so each weight needs its own. An
    integer seed is derived for `path`. Without a seed, the copy draws a new one. Functions have no
    state, and are returned unchanged.
    """
    if not isinstance(initializer, keras.Initializer):
        return initializer
    return type(initializer).from_config(_reseed(initializer.get_config(), path))


def copy_layer(layer: keras.Layer, name: str, *path: object) -> keras.Layer:
    """Return a copy of `layer` with new weights and the name `name`.

    The copy is unbuilt, except for a Functional model, which is built within the current name
    scope. Seeds in the config are derived for `path`, so that copies for different paths start with
    different weights, which are the same in every run. Without a path, seeds do not change.

    Args:
        layer: The layer.
        name: The name of the copy.
        *path: The place of the copy.

    Raises:
        TypeError: If the layer's `__init__` takes parameters that its config lacks.
    """
    with keras.name_scope(name), tensorflow_not_imported():
        if isinstance(layer, keras.Function | keras.Sequential):
            return _clone_model(layer, name, path)
        _check_complete_config(layer)
        config = remove_build_shapes(layer.get_config())
        config = _reseed({**config, **_adapted_state(layer, config)}, path)
        return type(layer).from_config({**config, "name": name})


def copy_metric(metric: keras.Metric, name: str, argument: str) -> keras.Metric:
    """Return a copy of a metric with the name `name`.

    Raises:
        TypeError: If the copy would lose arguments.
        ValueError: If its functions would differ.
    """
    with tensorflow_not_imported():
        _check_complete_config(metric)
        copy = type(metric).from_config({**metric.get_config(), "name": name})
    _check_same_functions(metric, copy, argument)
    return copy


def checked_copy(layer: keras.Layer, argument: str, name: str, *path: object) -> keras.Layer:
    """Return `copy_layer(layer, name, *path)` if the copy is equivalent to the layer.

    Raises:
        ValueError: If the copy would not have the functions and the adapted state of the layer.
    """
    try:
        copy = copy_layer(layer, name, *path)
    except Exception as error:
        raise ValueError(
            f"{argument} must be copied through its config. Define get_config and an __init__ that "
            f"passes **kwargs on, write {REGISTER} above classes and functions, and use no "
            f"lambdas. The copy failed: {first_error(error)}. Received: {argument}={layer!r}"
        ) from error
    copies = {"": copy, **dict(layers_inside(copy))}
    for place, inside in {"": layer, **dict(layers_inside(layer))}.items():
        _check_same_functions(inside, copies.get(place, inside), argument)
    check_adapted_layers(copy, argument)
    return copy


def check_adapted_layers(layer: keras.Layer, argument: str) -> None:
    """Check that the layers with `adapt` in a copied template are adapted, if a config shows it."""
    for *_, inside in walk(layer):
        config = inside.get_config() if hasattr(inside, "adapt") else {}
        keys = {"mean", "bin_boundaries", "vocabulary"} & {*config}
        if keys and all(config[key] is None for key in keys):
            raise ValueError(
                f"{argument} must have adapted layers. Call `adapt` of {inside.name!r}, and put it "
                f"directly into a Functional or Sequential model. Received: {argument}={layer!r}"
            )


def _check_same_functions(original: object, copy: object, argument: str) -> None:
    """Raise a ValueError if a function of a copy differs from the original.

    The functions are the objects themselves or their attributes. A constructor can create a
    function again, from the same code.
    """
    for name, found in vars(original).items():
        other = vars(copy).get(name, found)
        is_function = callable(found) and hasattr(found, "__name__")
        code = getattr(found, "__code__", found)
        if is_function and code is not getattr(other, "__code__", other):
            raise ValueError(
                f"{argument} must not have an unregistered function with the name of Keras's "
                f"{found.__name__!r}, since copies and files would contain Keras's. Write "
                f"{REGISTER} above it, or rename it. Received: {argument}={original!r}"
            )


def _clone_model(model: keras.Layer, name: str, path: tuple[object, ...]) -> keras.Model:
    """Return a copy of a model. Seeds depend on the positions of layers, since names can repeat."""
    positions = count(1)

    def clone(layer: keras.Layer) -> keras.Layer:
        return copy_layer(layer, layer.name, *path, *([next(positions)] if path else []))

    if type(model) is keras.Sequential:  # an unbuilt copy, whose paths are as in other layers
        # A copy without its input would cast integers to its compute dtype.
        inputs = [
            keras.Input(batch_shape=column.shape, dtype=column.dtype)
            for column in getattr(model, "inputs", [])  # missing in an unbuilt model
            if not keras.backend.is_float_dtype(column.dtype)
        ]
        return keras.Sequential([*inputs, *map(clone, model.layers)], name=name)
    model = keras.models.clone_model(model, clone_function=clone)
    model.name = name
    return model


def _adapted_state(layer: keras.Layer, config: Config) -> Config:
    """Return the state of a layer with `adapt` that its config lacks, as arguments."""
    if isinstance(layer, keras.layers.Normalization) and layer.built and config["mean"] is None:
        mean, variance = to_numpy(layer.adapt_mean), to_numpy(layer.adapt_variance)
        if (mean != 0).any() or (variance != 1).any():
            return {"mean": mean.tolist(), "variance": variance.tolist()}
    if hasattr(layer, "get_vocabulary") and config["vocabulary"] is None:
        return {"vocabulary": layer.get_vocabulary(include_special_tokens=False) or None}
    return {}


def _check_complete_config(copied: keras.Layer | keras.Metric) -> None:
    """Raise an error if a copy would lose arguments of the constructor.

    A subclass that inherits get_config would silently lose the arguments that it adds.

    Raises:
        TypeError: If `__init__` takes parameters that the config lacks.
    """
    cls: Any = type(copied)
    is_custom = not cls.from_config.__module__.startswith(("keras.", "ple_keras."))
    if cls.get_config is keras.Layer.get_config or is_custom:
        return  # Keras or a custom from_config maps the config to the arguments
    arguments = {*copied.get_config()}
    for base in filter(is_from_keras, cls.__mro__):  # Keras's own layers omit unset arguments
        arguments.update(_init_parameters(base))
    missing = [name for name in _init_parameters(cls) if name not in arguments]
    if missing:
        raise TypeError(
            f"{cls.__name__}.__init__ takes {missing}, which its config lacks. "
            f"Define a get_config of {cls.__name__} that also returns them."
        )


def _init_parameters(cls: Any) -> list[str]:
    """Return the names of the parameters of a class's `__init__`, without `self`."""
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind not in several]


def _reseed(value: object, path: tuple[object, ...]) -> Any:
    """Return a part of a config whose seeds are derived for `path`, if any, and their positions."""
    if isinstance(value, Mapping):
        return {
            key: _derive_seed(item, path)
            if key == "seed" and isinstance(item, int) and path
            else _reseed(item, path and (*path, key))
            for key, item in value.items()
            # An id stands for one object while Keras loads a file. A copy must be a new object.
            if key != SHARED_ID_KEY
        }
    if isinstance(value, list | tuple):
        items = (_reseed(item, path and (*path, i)) for i, item in enumerate(value))
        return tuple(items) if isinstance(value, tuple) else list(items)
    if isinstance(value, keras.Layer):
        return copy_layer(value, value.name, *path)
    return derive_initializer(value, *path)


def _derive_seed(seed: int, path: tuple[object, ...]) -> int:
    """Return a seed that depends only on `seed` and `path`, and is the same in every run."""
    digest = hashlib.sha256(repr((seed, *map(str, path))).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
