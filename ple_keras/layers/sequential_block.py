"""Layers in a row, where dicts may pass."""

from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import keras

from ple_keras._keras.building import symbolic
from ple_keras._keras.children import built_names, deserialize_children, serialize_children
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.registration import register
from ple_keras._typing import Nested, NestedShape, Tensor


@register
class SequentialBlock(FreezableLayer):
    """Layers in a row, as in `keras.Sequential`, but a layer itself.

    Dicts may pass between the layers and come in first, any rank works, and when the block is
    built, so is everything in it.

    Args:
        layers: The layers, in the order in which they are called; their names must differ.
        **kwargs: Keras's own layer arguments.

    Raises:
        TypeError: if `layers` is no sequence of layers.
        ValueError: if it is empty, or two layers have one name.

    Example:

    >>> block = SequentialBlock([keras.layers.Dense(8), CGCBlock(["click", "buy"], [4])])
    >>> {name: tuple(x.shape) for name, x in block(keras.ops.ones((2, 16))).items()}
    {'click': (2, 4), 'buy': (2, 4), 'shared': (2, 4)}
    """

    def __init__(self, layers: Sequence[keras.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self._chain = _check_layers(layers)  # a name in the file format
        self._came_built = built_names(self._chain)

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers, in order."""
        return list(self._chain)

    def get_layer(self, name: str) -> keras.Layer:
        """The layer called `name`.

        Raises:
            ValueError: if there is none.
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
                "inputs must be a tensor, or a dict or list of tensors that holds at least one. "
                f"Received: inputs.shape={input_shape}"
            )
        outputs = symbolic(input_shape, self.compute_dtype)
        for layer in self._chain:
            outputs = layer(outputs)
        self._restore_frozen()

    def _layers_with_config(self) -> list[keras.Layer]:
        return self.layers

    def call(self, inputs: Nested, training: bool | None = None) -> Nested:
        """Call the layers one after the other.

        Args:
            inputs: What the first layer takes.
            training: As in Keras; every layer hears of it.

        Returns:
            What the last layer returns.
        """
        for layer in self._chain:
            inputs = layer(inputs)
        return inputs

    def compute_mask(self, inputs: Nested, previous_mask: Tensor | None) -> None:
        """The layers decide: what mask an output has, the last of them has set."""
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
