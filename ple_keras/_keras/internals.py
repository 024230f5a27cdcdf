"""Every use of what Keras does not document.

The rest of the package uses documented names of Keras alone, which a test checks. Each function
says why it is needed and on which versions of Keras it was checked:
`tests/_keras/test_internals.py` fails when Keras changes what a function relies on.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.common import stateless_scope, symbolic_scope
from keras.src.utils import module_utils

from ple_keras._typing import Store, Tensor

BUILD_KEYS = frozenset({"build_config", "build_input_shape"})
SHARED_ID_KEY = "shared_object_id"


def children(layer: keras.Layer) -> list[keras.Layer]:
    """Return the layers directly inside a layer, in the order in which they became part of it.

    `Model.layers` exists for models alone, and leaves out layers in attributes of a Functional
    subclass. Keras 3.12 to 3.15.
    """
    inside: list[Any] = layer._flatten_layers(include_self=False, recursive=False)
    return inside


def stop_tracking(layer: keras.Layer, variable: keras.Variable) -> None:
    """Remove a variable from a layer's weights.

    Quantization replaces variables, as Keras's own layers do it. Keras 3.12 to 3.15.
    """
    layer._untrack_variable(variable)


def mask_of(tensor: Tensor) -> Tensor | None:
    """Return the mask that Keras attached to a tensor, or None.

    Losses, and layers that read several tensors, get no mask as an argument; JAX's tracers take no
    attributes, so that reading `_keras_mask` fails there. Keras 3.12 to 3.15.
    """
    return get_keras_mask(tensor)


def drop_mask(tensor: Tensor) -> None:
    """Remove the mask that Keras attached to a tensor.

    A loss with `ignore_class` attaches one to its values, which Keras would apply to the mean.
    Keras 3.12 to 3.15.
    """
    set_keras_mask(tensor, None)


def in_stateless_scope() -> bool:
    """Return whether Keras takes new values of variables out of what runs now.

    `keras.StatelessScope` is documented; the question whether one is open is not. Keras 3.12 to
    3.15.
    """
    return bool(stateless_scope.in_stateless_scope())


def in_symbolic_scope() -> bool:
    """Return whether Keras runs a loss on placeholders, to build its metrics.

    It does so before the first step, on predictions that no layer has made. Keras 3.12 to 3.15.
    """
    return bool(symbolic_scope.in_symbolic_scope())


@contextmanager
def tensorflow_not_imported() -> Iterator[None]:
    """Let Keras serialize objects without importing TensorFlow.

    Keras asks of every object whether it is one of TensorFlow's, and imports TensorFlow for that
    wherever it is installed: this takes seconds and some 500 MB. Before TensorFlow is imported no
    object can be. Keras 3.12 to 3.15.
    """
    lazy = vars(module_utils.tensorflow)
    if "tensorflow" in sys.modules or lazy.get("_available", False) is not None:
        yield
        return
    lazy["_available"] = False
    try:
        yield
    finally:
        lazy["_available"] = None


def copy_direction(metric: keras.Metric, target: keras.Metric) -> None:
    """Give a metric the direction of another: whether more of it is better.

    EarlyStopping and ModelCheckpoint read it with `mode="auto"`. Keras 3.12 to 3.15.
    """
    if hasattr(metric, "_direction"):
        target._direction = metric._direction


def trained_and_logged(trained: keras.Loss, logged: keras.Loss) -> tuple[list[Any], list[float]]:
    """Return two losses of one output, and their weights, as `Model.compile` takes them.

    Keras calls an output's losses in this order, adds them up by their weights, and logs the last
    one as `{output}_loss`. Keras 3.12 to 3.15.
    """
    return [trained, logged], [1.0, 0.0]


def refusal(layer: keras.Layer, store: Store, reason: str) -> ValueError:
    """Return the error with which a layer refuses a file.

    Keras tries a layer that raised again and shows the last error; Keras 3.15 tries it with an
    empty store too. Here the last error is the first one again. Keras 3.12 to 3.15.
    """
    if list(store.keys()):
        layer._refusal = reason
    return ValueError(getattr(layer, "_refusal", reason))


def is_functional_config(config: Mapping[str, Any]) -> bool:
    """Return whether a serialized layer is a Functional model.

    Keras rebuilds one from its layers' inbound nodes alone, so that it cannot be had unbuilt.
    Keras 3.12 to 3.15.
    """
    inner = config.get("config")
    return isinstance(inner, Mapping) and {"input_layers", "output_layers"} <= set(inner)


def without_build_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Remove from a layer's config, or its serialized form, the shapes that it was built with.

    Keras builds a layer with such a shape as soon as it is deserialized, before it has a parent,
    and a Sequential by its InputLayer. Keras 3.12 to 3.15.
    """
    unbuilt = {key: value for key, value in config.items() if key not in BUILD_KEYS}
    if "build_input_shape" in config:
        layers = unbuilt["layers"]
        unbuilt["layers"] = [x for x in layers if x.get("class_name") != "InputLayer"]
    return unbuilt


def has_automatic_config(layer: keras.Layer) -> bool:
    """Return whether Keras records the arguments of a layer's `__init__` as its config.

    It does so for classes without `get_config`. Keras 3.12 to 3.15.
    """
    return bool(type(layer).get_config is keras.Layer.get_config)


def is_of_keras(thing: object) -> bool:
    """Return whether a class or function is one of Keras's own.

    Their module is the only sign. Keras 3.12 to 3.15.
    """
    return str(getattr(thing, "__module__", "")).startswith("keras.")
