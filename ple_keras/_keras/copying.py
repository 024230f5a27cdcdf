"""Copies of layers, each with its own weights, random seeds and name."""

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import keras

from ple_keras._checks import warn_user
from ple_keras._keras.base_layer import BaseLayer
from ple_keras._keras.internals import (
    SHARED_ID_KEY,
    has_automatic_config,
    is_of_keras,
    tensorflow_not_imported,
)
from ple_keras._keras.saving import remove_build_shapes
from ple_keras._keras.walking import Untracked, layers_inside
from ple_keras._typing import Initializer


class Template(Untracked[keras.Layer]):
    """A layer that is copied and never used itself.

    Args:
        layer: The layer.
        argument: The name of the caller's argument, for error messages, and of its config's key.
    """

    def __init__(self, layer: keras.Layer, argument: str) -> None:
        super().__init__(layer)
        self.argument = argument

    @property
    def layer(self) -> Any:
        return self.value

    def copy(self, name: str, *path: object) -> Any:
        """Return a copy with the name `name` and with seeds derived for `path`."""
        return copy_layer(self.layer, name, *path)

    def serialize(self) -> Any:
        return keras.saving.serialize_keras_object(self.layer)


def are_equal_layers(first: keras.Layer, second: keras.Layer) -> bool:
    """Return whether two templates have the same copies: one class, config and functions.

    Names, and the shapes that a layer was built with, may differ. The result is the same for
    layers from a file.
    """
    if first is second:
        return True
    try:
        is_equal = _functions_by_value(first) == _functions_by_value(second)
    except Exception:  # functions that enclose arrays, which have no truth value
        return False
    return is_equal and _config_text(first) == _config_text(second)


def _functions_by_value(layer: keras.Layer) -> dict[str, Any]:
    """Return the custom functions of a layer by their code and the values that they enclose."""
    return {
        place: (getattr(function, "__code__", function), getattr(function, "__closure__", None))
        for place, function in _functions_of(layer).items()
    }


def _config_text(layer: keras.Layer) -> str:
    with tensorflow_not_imported(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, for a lambda
        config = keras.saving.serialize_keras_object(layer)
    config = _reseed(remove_build_shapes(config, keep_marked=False), ())
    config["config"].pop("name")
    return json.dumps(config, sort_keys=True, default=str)


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
    return _recreate(initializer, lambda config: _reseed(config, path))


def copy_layer(layer: keras.Layer, name: str, *path: object) -> keras.Layer:
    """Return a copy of `layer` with new weights, its functions and the name `name`.

    The copy is unbuilt, except for a Functional model, which is built within the current name
    scope. Seeds in the config are derived for `path`. Copies for different paths therefore start
    with different weights, and with the same weights in every run.

    Args:
        layer: The layer.
        name: The name of the copy.
        *path: The place of the copy.

    Raises:
        TypeError: If the layer's `__init__` takes parameters that its config lacks, or if the
            layer is or contains a Lambda.
    """

    def change(config: dict[str, Any]) -> dict[str, Any]:
        return {**_reseed(remove_build_shapes(config, keep_marked=False), path), "name": name}

    with keras.name_scope(name), tensorflow_not_imported():
        if is_graph(layer):
            return _clone_model(layer, name, path)
        if isinstance(layer, keras.layers.Lambda):
            raise TypeError("the config of a Lambda does not keep its function.")
        if isinstance(layer, keras.Layer):
            refuse_lost_arguments(layer)
        return _recreate(layer, change)


def copy_metric(metric: keras.Metric, name: str) -> keras.Metric:
    """Return a copy of a metric with its functions and the name `name`.

    Raises:
        TypeError: If the copy would lose arguments or functions.
    """
    with tensorflow_not_imported():
        refuse_lost_arguments(metric)
        copy = _recreate(metric, lambda config: {**config, "name": name})
        _refuse_lost_functions(metric, copy)
    return copy


def check_copyable(layer: keras.Layer, argument: str) -> None:
    """Check that a template can be copied, and that the copy has its functions."""
    try:
        copy = copy_layer(layer, layer.name)
        copies = {"": copy, **dict(layers_inside(copy))}
        with tensorflow_not_imported(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Keras, for a lambda in an inner layer
            for name, each in [("", layer), *layers_inside(layer)]:
                if name in copies:
                    _refuse_lost_functions(each, copies[name])
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
        "Give it get_config, register its class and its functions with "
        "keras.saving.register_keras_serializable, and replace a Lambda by a custom layer."
    )


def is_graph(layer: keras.Layer) -> bool:
    """Return whether a layer is a Functional or Sequential model."""
    is_functional = isinstance(layer, keras.Model) and isinstance(layer, keras.Function)
    return isinstance(layer, keras.Sequential) or is_functional


def _clone_model(model: keras.Layer, name: str, path: tuple[object, ...]) -> keras.Model:
    """Return a copy of a model. Seeds depend on the position of layers, as names may repeat."""
    copied = 0

    def clone(layer: keras.Layer) -> keras.Layer:
        nonlocal copied
        copied += 1
        return copy_layer(layer, layer.name, *path, copied)

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
    standard = [inspect.getattr_static(x, "from_config").__func__ for x in (base, BaseLayer)]
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


def _reseed(value: object, path: tuple[object, ...]) -> Any:
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


# Keras serializes a function by its name alone, and resolves a name that it knows to its own
# function. A copy is therefore created from a config with other names, which only this code
# resolves.


def _recreate(thing: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a new object from a changed config, with the functions of the original."""
    functions: dict[str, Any] = {}
    config = _rename_functions(thing.get_config(), thing, "", functions)
    with keras.saving.custom_object_scope(functions):
        return type(thing).from_config(change(config))


def _rename_functions(entry: object, part: object, place: str, functions: dict[str, object]) -> Any:
    """Return an entry of a config in which the name of each custom function is its place.

    Args:
        entry: The config of an object, or an entry of it.
        part: The object that the entry describes.
        place: The place of the entry, "" for the config of the outermost object.
        functions: A dict to which the functions are added by their new names.
    """
    if isinstance(entry, str | Mapping) and _is_custom_function(part):
        functions[place] = part
        name = {"config": place, "registered_name": "function"}
        return {"module": "builtins", "class_name": "function", **name}
    if isinstance(entry, Mapping) and "class_name" in entry:
        return {**entry, "config": _rename_functions(entry.get("config"), part, place, functions)}
    if isinstance(entry, Mapping):
        return {
            key: _rename_functions(each, _part(part, key), f"{place}/{key}", functions)
            for key, each in entry.items()
        }
    if isinstance(entry, list | tuple) and isinstance(part, Sequence):
        # Layers go by name, since the config of a Sequential may begin with an InputLayer, which
        # neither its `layers` nor its copies have.
        layers = {each.name: each for each in part if isinstance(each, keras.Layer)}
        parts: dict[Any, Any] = {**dict(enumerate(part)), **layers}
        names = [_part(_part(each, "config"), "name") for each in entry]
        keys = [name if name in layers else index for index, name in enumerate(names)]
        return [
            _rename_functions(each, parts.get(key), f"{place}/{key}", functions)
            for key, each in zip(keys, entry)
        ]
    return entry


def _part(owner: object, key: str) -> Any:
    """Return the item or attribute, or the template, that the key of a config describes."""
    if isinstance(owner, Mapping):
        return owner.get(key)
    if not hasattr(owner, "get_config"):
        return None
    for value in vars(owner).values():
        if isinstance(value, Untracked) and getattr(value, "argument", None) == key:
            return value.layer  # type: ignore[attr-defined]
    return getattr(owner, key, getattr(owner, f"_{key}", None))


def _is_custom_function(part: object) -> bool:
    """Return whether an object is a function that is neither Keras's nor registered with it."""
    is_object = isinstance(part, type) or hasattr(part, "get_config") or inspect.ismethod(part)
    if is_object or not hasattr(part, "__name__") or not callable(part) or is_of_keras(part):
        return False
    name = keras.saving.get_registered_name(part)
    return keras.saving.get_registered_object(name) is not part


def _functions_of(thing: object) -> dict[str, Any]:
    """Return the custom functions in the serialized form of an object, by their places."""
    functions: dict[str, Any] = {}
    with suppress(Exception):  # an inner layer needs no config
        _rename_functions(keras.saving.serialize_keras_object(thing), thing, "", functions)
    return functions


def _lost_functions(original: object, copy: object) -> list[str]:
    """Return the names of the custom functions for which a copy has others.

    A constructor may create a function again, from the same code.
    """
    copied = _functions_of(copy)
    return [
        function.__name__
        for place, function in _functions_of(original).items()
        if getattr(function, "__code__", function)
        is not getattr(copied.get(place), "__code__", copied.get(place))
    ]


def _refuse_lost_functions(original: object, copy: object) -> None:
    """Raise an error if a copy has other functions than the original.

    A layer with layers inside may serialize them again, such as Bidirectional.

    Raises:
        TypeError: If the copy lacks a function of the original.
    """
    lost = _lost_functions(original, copy)
    if lost:
        raise TypeError(f"the copy of {original!r} would lose its functions {lost}.")


def warn_of_replaced_functions(**arguments: object) -> None:
    """Warn if files would have functions of Keras in place of custom ones of the same names.

    Arguments from the config of a file or a copy are serialized, or of Keras, and never warn.

    Args:
        **arguments: Activations, losses and metrics, as they were given to a constructor.
    """
    for argument, value in arguments.items():
        with tensorflow_not_imported():
            lost = _replaced_in_files(value)
        if lost:
            warn_user(
                f"Files will have Keras's functions in place of {lost}, which have the same names. "
                "Rename them, or register them with keras.saving.register_keras_serializable. "
                f"Received: {argument}={value!r}",
            )
            return


def _replaced_in_files(value: object) -> list[str]:
    """Return the names of the functions of an argument that files replace without an error."""
    if isinstance(value, list):
        return [name for each in value for name in _replaced_in_files(each)]
    is_lambda = getattr(value, "__name__", "") == "<lambda>"  # Keras warns when it saves one
    if is_lambda or not _functions_of(value):
        return []
    try:
        serialized = keras.saving.serialize_keras_object(value)
        return _lost_functions(value, keras.saving.deserialize_keras_object(serialized))
    except Exception:  # loading such a file raises the error, too
        return []
