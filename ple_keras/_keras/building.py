"""Building layers on symbolic inputs."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import keras

from ple_keras._keras.copying import copy_layer
from ple_keras._typing import NestedShape, Shape


def symbolic(shape: NestedShape, dtype: str) -> Any:
    """Return a symbolic tensor of a shape, or a dict or list of them, for a dict or list."""
    if isinstance(shape, Mapping):
        return {key: symbolic(item, dtype) for key, item in shape.items()}
    if isinstance(shape, Sequence) and shape and isinstance(shape[0], Sequence | Mapping):
        return [symbolic(item, dtype) for item in cast(Sequence[NestedShape], shape)]
    return keras.KerasTensor(tuple(cast(Shape, shape)), dtype=dtype)


def build_on(layer: keras.Layer, shape: Shape, dtype: str, argument: str) -> int:
    """Build a copied template on inputs of `shape` and return its output width.

    A symbolic call builds every layer, also one without `build` that creates weights in `call`.

    Raises:
        ValueError: If the layer does not map `(..., D)` to `(..., H)`.
    """
    try:
        output = layer(keras.KerasTensor(shape, dtype=dtype))
    except Exception as error:
        raise ValueError(
            f"{argument} must take inputs of shape {shape}, but its copy failed: {error} A model "
            "built for one width takes no other: pass it unbuilt, or pass PLEBlock one layer per "
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
