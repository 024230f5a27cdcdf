"""Copies of layers, each with its own weights, random seeds and name, and their builds."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import keras

from ple_keras._keras.internals import (
    SHARED_ID_KEY,
    has_automatic_config,
    is_from_keras,
    tensorflow_not_imported,
)
from ple_keras._keras.layers import Untracked, layers_inside, walk
from ple_keras._keras.saving import remove_build_shapes
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import FixedDTypes, Initializer, Nested, NestedShape, Shape

REGISTER = "`@keras.saving.register_keras_serializable()`"


class Template(Untracked[keras.Layer]):
    """A layer that is copied and never used itself.

    Args:
        layer: The layer.
        argument: The name of the caller's argument and config key, for error messages.
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


def derive_initializer(initializer: Initializer, *path: object) -> Any:
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
        TypeError: If the layer's `__init__` takes parameters that its config lacks, or if the
            layer is or contains a Lambda.
    """
    with keras.name_scope(name), tensorflow_not_imported():
        is_functional = isinstance(layer, keras.Model) and isinstance(layer, keras.Function)
        if is_functional or isinstance(layer, keras.Sequential):
            return _clone_model(layer, name, path)
        if isinstance(layer, keras.layers.Lambda):
            raise TypeError("the config of a Lambda does not contain its function.")
        if isinstance(layer, keras.Layer):
            _refuse_lost_arguments(layer)
        config = remove_build_shapes(layer.get_config(), keep_marked=False)
        config = _reseed({**config, **_adapted_state(layer, config)}, path)
        return type(layer).from_config({**config, "name": name})


def copy_metric(metric: keras.Metric, name: str, argument: str) -> keras.Metric:
    """Return a copy of a metric with the name `name`.

    Raises:
        TypeError: If the copy would lose arguments.
        ValueError: If its functions would differ.
    """
    with tensorflow_not_imported():
        _refuse_lost_arguments(metric)
        copy = type(metric).from_config({**metric.get_config(), "name": name})
    _refuse_replaced(metric, copy, argument)
    return copy


def checked_copy(layer: keras.Layer, argument: str, name: str, *path: object) -> keras.Layer:
    """Return `copy_layer(layer, name, *path)`, if the copy is equivalent to the layer.

    Raises:
        ValueError: If the copy would not have the functions and the adapted state of the layer.
    """
    try:
        copy = copy_layer(layer, name, *path)
    except Exception as error:
        cause: Any = error
        while cause.__context__ is not None:  # Keras quotes whole configs around it
            cause = cause.__context__
        with suppress(Exception), tensorflow_not_imported():
            cause = f"{next(unregistered_names(layer.get_config()))!r} is not registered"
        raise ValueError(
            f"{argument} must be a layer that can be copied through its config. Define get_config, "
            "and an __init__ that passes **kwargs, such as name, to keras.layers.Layer. Write "
            f"{REGISTER} above its class and its functions. Replace a lambda with such a function, "
            f"and a Lambda with a custom layer. The copy failed: {cause}. "
            f"Received: {argument}={layer!r}"
        ) from error
    copies = {"": copy, **dict(layers_inside(copy))}
    for place, inside in {"": layer, **dict(layers_inside(layer))}.items():
        _refuse_replaced(inside, copies.get(place, inside), argument)
    refuse_unadapted(copy, argument)
    return copy


def unregistered_names(config: Any) -> Iterator[str]:
    """Yield the names of classes and functions in a config that Keras can't load."""
    if isinstance(config, list | tuple):
        for item in config:
            yield from unregistered_names(item)
    if not isinstance(config, Mapping):
        return
    yield from unregistered_names([*config.values()])
    name = config.get("registered_name")
    if config.get("class_name") == "function":
        try:
            keras.saving.deserialize_keras_object(config)
        except Exception:
            yield config["config"]
    elif isinstance(name, str) and keras.saving.get_registered_object(name) is None:
        yield name


def refuse_unadapted(layer: keras.Layer, argument: str) -> None:
    """Check that the layers with `adapt` in the copy of a template have state."""
    for *_, inside in walk(layer):
        config = inside.get_config() if hasattr(inside, "adapt") else {"mean": 0.0}
        if all(config.get(key) is None for key in ("mean", "bin_boundaries", "vocabulary")):
            raise ValueError(
                f"{argument} must have adapted layers, but {inside.name!r} has no state. Call its "
                "`adapt` first, and put it directly into a Functional or Sequential model, whose "
                f"copies keep the state. Received: {argument}={layer!r}"
            )


def refuse_replaced_functions(**arguments: object) -> None:
    """Check that Keras functions do not replace custom functions with the same names in files.

    Keras saves only the name of an unregistered function.

    Args:
        **arguments: Activations, losses and metrics, as passed to a constructor.
    """
    for argument, value in arguments.items():
        for each in value if isinstance(value, list) else [value]:
            if not callable(each) or getattr(each, "__name__", "") == "<lambda>":
                continue
            loaded = each
            with suppress(Exception), tensorflow_not_imported():  # a file raises the error, too
                serialized = keras.saving.serialize_keras_object(each)
                loaded = keras.saving.deserialize_keras_object(serialized)
            _refuse_replaced(each, loaded, argument)


def _refuse_replaced(original: object, copy: object, argument: str) -> None:
    """Raise a ValueError if a function of a copy differs from the original.

    The functions are the objects themselves or their attributes. A constructor can create a
    function again, from the same code.
    """
    copied = _functions(copy)
    for place, function in _functions(original).items():
        other = copied.get(place, function)
        if getattr(function, "__code__", function) is not getattr(other, "__code__", other):
            name = function.__name__
            raise ValueError(
                f"{argument} must not have an unregistered function with the name of a Keras "
                f"function, since copies and files would contain Keras's {name!r} instead. Write "
                f"{REGISTER} above `def {name}`, or rename it. To use Keras's function, pass the "
                f"name {name!r}. Received: {argument}={original!r}"
            )


def _functions(thing: Any) -> dict[Any, Any]:
    parts = vars(thing) if hasattr(thing, "get_config") else {"": thing}
    return {
        place: part
        for place, part in keras.tree.flatten_with_path(parts)
        if hasattr(part, "__name__") and callable(part) and not isinstance(part, type)
    }


def _clone_model(model: keras.Layer, name: str, path: tuple[object, ...]) -> keras.Model:
    """Return a copy of a model. Seeds depend on the positions of layers, since names can repeat."""
    copied = 0

    def clone(layer: keras.Layer) -> keras.Layer:
        nonlocal copied
        copied += 1
        return copy_layer(layer, layer.name, *path, *([copied] if path else []))

    if type(model) is keras.Sequential:  # unbuilt, so that paths are as in other layers
        # Without its input, a copy would cast integers to its compute dtype.
        inputs = [
            keras.Input(batch_shape=given.shape, dtype=given.dtype)
            for given in getattr(model, "inputs", [])  # missing in an unbuilt model
            if not keras.backend.is_float_dtype(given.dtype)
        ]
        return keras.Sequential([*inputs, *map(clone, model.layers)], name=name)
    model = keras.models.clone_model(model, clone_function=clone)
    model.name = name
    return model


def _adapted_state(layer: keras.Layer, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a layer with `adapt` that its config lacks, as arguments."""
    if isinstance(layer, keras.layers.Normalization) and layer.built and config["mean"] is None:
        mean, variance = to_numpy(layer.adapt_mean), to_numpy(layer.adapt_variance)
        if (mean != 0).any() or (variance != 1).any():
            return {"mean": mean.tolist(), "variance": variance.tolist()}
    if hasattr(layer, "get_vocabulary") and config["vocabulary"] is None:
        return {"vocabulary": layer.get_vocabulary(include_special_tokens=False) or None}
    return {}


def _refuse_lost_arguments(copied: keras.Layer | keras.Metric) -> None:
    """Raise an error if a copy would lose arguments of the constructor.

    A subclass that inherits get_config would silently lose the arguments that it adds.

    Raises:
        TypeError: If `__init__` takes parameters that the config lacks.
    """
    cls, base = type(copied), keras.Layer if isinstance(copied, keras.Layer) else keras.Metric
    standard, found = inspect.getattr_static(base, "from_config").__func__, cls.from_config
    is_custom = found.__func__ is not standard and not found.__module__.startswith("ple_keras.")
    if has_automatic_config(copied) or is_custom:
        return  # a custom from_config has its own mapping from config to arguments
    arguments = {*copied.get_config()}
    for base in filter(is_from_keras, cls.__mro__):  # Keras's own layers omit unset arguments
        arguments.update(_init_parameters(base))
    missing = [name for name in _init_parameters(cls) if name not in arguments]
    if missing:
        raise TypeError(
            f"{cls.__name__}.__init__ takes {missing}, which its config lacks; "
            f"define a get_config of {cls.__name__} that also returns them."
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
            # While Keras loads a file, an id stands for one object. A copy must be a new object.
            if key != SHARED_ID_KEY
        }
    if isinstance(value, list | tuple):
        items = (_reseed(item, path and (*path, i)) for i, item in enumerate(value))
        return tuple(items) if isinstance(value, tuple) else list(items)
    if isinstance(value, keras.Layer):
        return copy_layer(value, value.name, *path)
    if isinstance(value, keras.random.SeedGenerator):
        return keras.random.SeedGenerator(**_reseed(value.get_config(), path))
    return derive_initializer(value, *path)


def _derive_seed(seed: int, path: tuple[object, ...]) -> int:
    """Return a seed that depends only on `seed` and `path`, and is the same in every run."""
    digest = hashlib.sha256(repr((seed, *map(str, path))).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def symbolic(shape: NestedShape, dtype: str, fixed: FixedDTypes = None) -> Any:
    """Return a symbolic tensor of a shape, or a dict or list of tensors for a dict or list.

    Args:
        shape: The shape, or shapes.
        dtype: The dtype of all tensors without a fixed dtype.
        fixed: The fixed dtype of the tensor, or of each tensor of a dict.
    """
    if isinstance(shape, Mapping):
        dtypes = fixed if isinstance(fixed, Mapping) else {}
        return {key: symbolic(item, dtype, dtypes.get(key)) for key, item in shape.items()}
    if isinstance(shape, Sequence) and shape and isinstance(shape[0], Sequence | Mapping):
        return [symbolic(item, dtype) for item in cast(Sequence[NestedShape], shape)]
    return keras.KerasTensor(tuple(cast(Shape, shape)), dtype=fixed or dtype)


def build_on(layer: keras.Layer, shape: Shape, dtype: str, argument: str) -> int:
    """Build a copied template on inputs of `shape` and return its output width.

    A symbolic call builds every layer, even one without `build` that creates weights in `call`.

    Raises:
        ValueError: If the layer does not map `(..., D)` to `(..., H)`.
    """
    try:
        output = layer(keras.KerasTensor(shape, dtype=dtype))
    except Exception as error:
        raise ValueError(
            f"{argument} must accept inputs of shape {shape}, but its copy failed: {error} A model "
            "that was built fits only one width: pass it unbuilt, or pass PLEBlock one layer per "
            f"level. Received: {argument}={layer!r}"
        ) from error
    output_shape = getattr(output, "shape", None)
    if output_shape is None or output_shape[:-1] != shape[:-1] or output_shape[-1] is None:
        raise ValueError(
            f"{argument} must map a tensor (..., D) to a tensor (..., H) and change only the last "
            f"axis, but it maps {shape} to {output_shape or output!r}. "
            f"Received: {argument}={layer!r}"
        )
    width: int = output_shape[-1]
    return width


def output_width(layer: keras.Layer, shape: Shape, argument: str) -> int:
    """Return a template's output width H for inputs `(..., D)`, without building the template."""
    return build_on(copy_layer(layer, layer.name), tuple(shape), layer.compute_dtype, argument)


def build_features(layer: keras.Layer, inputs: Nested, argument: str) -> keras.KerasTensor:
    """Build a copy of a feature network on symbolic inputs and return its symbolic output.

    Raises:
        ValueError: If the layer does not map the inputs to one tensor, or the call does not build
            all layers inside it, which would slow down every training step.
    """
    try:
        output = layer(inputs)
    except Exception as error:
        raise ValueError(
            f"{argument} must accept the inputs {inputs}, but its copy failed: {error} "
            f"Received: {argument}={layer!r}"
        ) from error
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            f"{argument} must return a single tensor, but it returns {output!r}. "
            f"Received: {argument}={layer!r}"
        )
    refuse_unadapted(layer, argument)
    unbuilt = [path[-1].name for path in walk(layer) if not path[-1].built]
    if unbuilt:
        raise ValueError(
            f"{argument} must build all its layers when it is called, but {unbuilt} are not built. "
            "For a dict, use a Functional model or a SequentialBlock, not a keras.Sequential. "
            f"Received: {argument}={layer!r}"
        )
    return output
