"""Building copies of templates on symbolic inputs, and checking what comes out."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import keras

from ple_keras._typing import NestedShape, Shape

T = TypeVar("T")


class Untracked(Generic[T]):
    """Holds a value where Keras would wrap or track it: it sees no layer and no dict in here.

    A tracked layer that is never built would slow every step down.
    """

    def __init__(self, value: T) -> None:
        self.value = value


def symbolic(shape: NestedShape, dtype: str) -> Any:
    """Symbolic tensors of the given shape, or of a dict or list of shapes."""
    if isinstance(shape, Mapping):
        return {key: symbolic(item, dtype) for key, item in shape.items()}
    if isinstance(shape, Sequence) and shape and isinstance(shape[0], Sequence | Mapping):
        return [symbolic(item, dtype) for item in cast(Sequence[NestedShape], shape)]
    return keras.KerasTensor(tuple(cast(Shape, shape)), dtype=dtype)


def build_on(layer: keras.Layer, shape: Shape, dtype: str, argument: str) -> int:
    """Build a copied template on inputs of `shape`; return the width of its output.

    A symbolic call builds every kind of layer: also one without `build`, whose weights only
    its `call` creates.

    Raises:
        ValueError: if the layer does not map `(..., D)` to `(..., H)`.
    """
    try:
        output = layer(keras.KerasTensor(shape, dtype=dtype))
    except Exception as error:
        raise ValueError(
            f"{argument} must take inputs of shape {shape}, but its copy {layer!r} fails on them "
            "(a model built for one width takes no other: give it unbuilt, or give PLEBlock a "
            f"layer for each level): {error} Received: {argument}={layer!r}"
        ) from error
    output_shape = getattr(output, "shape", None)
    if output_shape is None or output_shape[:-1] != shape[:-1] or output_shape[-1] is None:
        raise ValueError(
            f"{argument} must map one tensor (..., D) to one tensor (..., H) and leave all axes "
            f"but the last alone; it maps {shape} to {output_shape or output!r}. "
            f"Received: {argument}={layer!r}"
        )
    width: int = output_shape[-1]
    return width
