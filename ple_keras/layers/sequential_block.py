"""A sequence of layers that accepts dicts."""

from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import keras

from ple_keras._keras.building import symbolic
from ple_keras._keras.children import built_names, deserialize_children, serialize_children
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.registration import register
from ple_keras._typing import Nested, NestedShape


@register
class SequentialBlock(FreezableLayer):
    """A sequence of layers, like `keras.Sequential`, but a layer and not a model.

    The inputs and the outputs of each layer may be dicts of tensors of any rank. Building the
    block builds all its layers.

    Args:
        layers: The layers, in the order in which they are called. Their names must differ.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `layers` is not a sequence of layers.
        ValueError: If `layers` is empty, or two layers have the same name.

    Example:

    >>> block = SequentialBlock([keras.layers.Dense(8), CGCBlock(["click", "buy"], [4])])
    >>> {name: tuple(x.shape) for name, x in block(keras.ops.ones((2, 16))).items()}
    {'click': (2, 4), 'buy': (2, 4), 'shared': (2, 4)}
    """

    def __init__(self, layers: Sequence[keras.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self._chain = _check_layers(layers)  # part of the file format, as "layers"
        self._came_built = built_names(self._chain)

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers, in order."""
        return list(self._chain)

    def get_layer(self, name: str) -> keras.Layer:
        """Return the layer with the given name.

        Raises:
            ValueError: If there is no such layer.
        """
        for layer in self._chain:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self._chain]
        raise ValueError(f"name must be one of {names}. Received: name={name!r}")

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return self.layers[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self._chain)

    def build(self, input_shape: NestedShape) -> None:
        if not input_shape:
            raise ValueError(
                "inputs must be a tensor, or a dict or list of at least one tensor. "
                f"Received: inputs.shape={input_shape}"
            )
        outputs = symbolic(input_shape, self.compute_dtype)
        for layer in self._chain:
            outputs = layer(outputs)
        self._restore_frozen()

    def _layers_with_config(self) -> list[keras.Layer]:
        return self.layers

    def call(self, inputs: Nested, training: bool | None = None) -> Nested:
        """Call the layers in order.

        Args:
            inputs: The inputs of the first layer.
            training: Passed to every layer.

        Returns:
            The outputs of the last layer.
        """
        for layer in self._chain:
            inputs = layer(inputs)
        return inputs

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> None:
        """Return None, since the last layer sets the masks of the outputs."""
        return None

    def compute_output_spec(self, inputs: Nested, **kwargs: Any) -> Any:
        for layer in self._chain:
            inputs = layer.compute_output_spec(inputs)
        return inputs

    def compute_output_shape(self, input_shape: NestedShape) -> Any:
        for layer in self._chain:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        layers = serialize_children(self._chain, self._came_built)
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return super().from_config({**config, "layers": deserialize_children(config["layers"])})


def _check_layers(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    if not isinstance(layers, Sequence) or not all(isinstance(x, keras.Layer) for x in layers):
        raise TypeError(f"layers must be a sequence of Keras layers. Received: layers={layers!r}")
    if not layers:
        raise ValueError("layers must hold at least one layer. Received: layers=[]")
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise ValueError(f"layers must have different names. Received: layers={names}")
    return list(layers)
