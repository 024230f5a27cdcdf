"""Serialized layers without the shapes that they were built with.

Keras writes these shapes next to a layer's config and builds the layer when it deserializes it,
before it has a parent. The paths of its weights then lack the names of the outer layers. On
PyTorch, two weights with the same path are one parameter and are trained wrongly. The containers of
this package therefore deserialize their children unbuilt. They build them in `build`, within their
own name scope. A child that was built before it was passed to the container keeps its shapes and
its paths.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from ple_keras._keras.internals import is_functional_config, without_build_keys

CAME_BUILT = "came_built"  # a key next to a serialized child's config, part of the file format


def built_names(layers: Iterable[keras.Layer]) -> frozenset[str]:
    """Return the names of the layers that are built."""
    return frozenset(layer.name for layer in layers if layer.built)


def serialize_children(
    layers: Iterable[keras.Layer], came_built: Iterable[str]
) -> list[dict[str, Any]]:
    """Serialize a container's children and mark those that were passed to it built.

    Args:
        layers: The children, in order.
        came_built: The names of the children that were built before the container was created.
    """
    children = []
    for layer in layers:
        child = keras.saving.serialize_keras_object(layer)
        is_marked = layer.name in came_built
        children.append({**child, CAME_BUILT: True} if is_marked else remove_build_shapes(child))
    return children


def deserialize_children(children: Sequence[Any]) -> list[keras.Layer]:
    """Deserialize a container's children. Only marked ones are built.

    Files of version 0.1.0 have no marks.
    """
    return [keras.saving.deserialize_keras_object(remove_build_shapes(child)) for child in children]


def remove_build_shapes(config: Any, keep_marked: bool = True) -> Any:
    """Return a config without the shapes that layers were built with, at any depth.

    Functional models are always built and are returned unchanged.

    Args:
        config: A layer's config or its serialized form, or a part of them.
        keep_marked: Whether marked children are returned unchanged too.
    """
    if isinstance(config, list | tuple):
        return type(config)(remove_build_shapes(item, keep_marked) for item in config)
    if not isinstance(config, Mapping):
        return config
    if is_functional_config(config) or (keep_marked and config.get(CAME_BUILT)):
        return dict(config)
    return {
        key: remove_build_shapes(value, keep_marked)
        for key, value in without_build_keys(config).items()
        if key != CAME_BUILT
    }
