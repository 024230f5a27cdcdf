"""Serialized layers without the shapes that they were built with.

Keras writes these shapes beside a layer's config and builds the layer as soon as it is
deserialized, before it has a parent: its weights' paths then lack the names of the layers around
it. Two weights of one path are one parameter on PyTorch, and are trained wrongly. The containers
of this package therefore deserialize their children unbuilt and build them in `build`, within
their own name scope. A child that was built before the container got it keeps its shapes, and with
them its paths.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from ple_keras._keras.internals import is_functional_config, without_build_keys

CAME_BUILT = "came_built"  # a key beside a serialized child's config; part of the file format


def built_names(layers: Iterable[keras.Layer]) -> frozenset[str]:
    """The names of the layers that are built."""
    return frozenset(layer.name for layer in layers if layer.built)


def serialize_children(
    layers: Iterable[keras.Layer], came_built: Iterable[str]
) -> list[dict[str, Any]]:
    """Serialize a container's children, and mark those that came built.

    Args:
        layers: The children, in order.
        came_built: The names of the children that were built before the container got them.
    """
    children = []
    for layer in layers:
        child = keras.saving.serialize_keras_object(layer)
        is_marked = layer.name in came_built
        children.append({**child, CAME_BUILT: True} if is_marked else unbuilt(child))
    return children


def deserialize_children(children: Sequence[Any]) -> list[keras.Layer]:
    """Deserialize a container's children, unbuilt unless they came built.

    Files of version 0.1.0 mark no child.
    """
    return [keras.saving.deserialize_keras_object(unbuilt(child)) for child in children]


def unbuilt(config: Any, keep_marked: bool = True) -> Any:
    """Remove what makes Keras build a layer when it is deserialized, at any depth.

    A Functional model can't be had unbuilt and is left alone.

    Args:
        config: A layer's config or its serialized form, or a part of them.
        keep_marked: Whether children that came built are left alone too.
    """
    if isinstance(config, list | tuple):
        return type(config)(unbuilt(item, keep_marked) for item in config)
    if not isinstance(config, Mapping):
        return config
    if is_functional_config(config) or (keep_marked and config.get(CAME_BUILT)):
        return dict(config)
    return {
        key: unbuilt(value, keep_marked)
        for key, value in without_build_keys(config).items()
        if key != CAME_BUILT
    }
