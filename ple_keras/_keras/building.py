"""Builds of layers on symbolic inputs, and the check of a built model."""

from collections.abc import Mapping, Sequence
from typing import cast

import keras

from ple_keras._keras.processes import replica_count
from ple_keras._typing import FixedDTypes, Nested, NestedShape, Shape, Tensor


def symbolic(shape: NestedShape, dtype: str, fixed: FixedDTypes = None) -> Tensor:
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

    Raises:
        ValueError: If the layer does not map `(..., D)` to `(..., H)`.
    """
    output = build_copy(layer, keras.KerasTensor(shape, dtype=dtype), argument)
    if output.shape[:-1] != shape[:-1] or output.shape[-1] is None:
        raise ValueError(
            f"{argument} must map a tensor (..., D) to a tensor (..., H) and change only the last "
            f"axis, but it maps {shape} to {output.shape}. Received: {argument}={layer!r}"
        )
    return cast(int, output.shape[-1])


def build_copy(layer: keras.Layer, inputs: Nested, argument: str) -> keras.KerasTensor:
    """Build a copied template on symbolic inputs and return its symbolic output.

    The call builds every layer, even one without `build` that creates weights in `call`.

    Raises:
        ValueError: If the call fails or does not return a single tensor.
    """
    try:
        output = layer(inputs)
    except Exception as error:
        raise ValueError(
            f"{argument} must accept {inputs}, but its copy failed: {error} Pass an unbuilt layer, "
            f"or call the block with network.input, not its output. Received: {argument}={layer!r}"
        ) from error
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            f"{argument} must return a tensor, not {output!r}. Received: {argument}={layer!r}"
        )
    return output


def check_model(model: keras.Layer) -> None:
    """Check that a model can be inspected.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If it is not built, or a strategy has several replicas, each of which runs every
            batch.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model or layer. Received: model={model!r}")
    replicas = replica_count()
    if replicas > 1:
        raise ValueError(f"strategy must have one replica. Leave its scope. Received: {replicas=}")
    if not model.built:
        raise ValueError(f"model must be built. Call or train it first. Received: {model=}")
