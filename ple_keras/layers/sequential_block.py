"""A sequence of layers that accepts dicts."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Self, SupportsIndex

import keras

from ple_keras._checks import check_bool, short_repr
from ple_keras._keras.building import symbolic
from ple_keras._keras.saving import register, serialize_layers
from ple_keras._typing import ByName, Config, Nested, NestedShape, Streams, StreamShapes, Tensor
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.connections import STREAM
from ple_keras.layers.gated_block import GatedBlock


@register
class SequentialBlock(GatedBlock):
    """A sequence of layers, like `keras.Sequential`, but a layer and not a model.

    The inputs and outputs of each layer can be dicts of tensors of any rank. Building the block
    builds all its layers. The gates of all its CGCBlocks can read one context, and the block can
    return their weights. `block[0]`, `block["name"]` and `get_layer` return a layer; `len` and
    iteration work as for a list.

    Args:
        layers: The layers, in the order in which they are called. Their names must differ.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: The inputs of the first layer, such as a tensor `(..., D)` or a dict of tensors.
        training: Passed to every layer.
        gate_context: The context of the gates, as for CGCBlock. Every layer whose gates read a
            context gets the same one.
        return_gate_weights: Whether to also return the gate weights of all CGCBlocks.

    Returns:
        The outputs of the last layer, such as `{task: (..., H)}`. With `return_gate_weights`, a
        tuple of them and `{"{name of this block}/{index}": {gate: (..., experts)}}` (see CGCBlock).
        A nested SequentialBlock adds its levels under its own name. Levels and gates are in
        alphabetical order, so that a saved model has the same outputs on every backend.

    Raises:
        TypeError: If `layers` is not a sequence of layers.
        ValueError: If `layers` is empty, or two layers have the same name. In a call, if no layer
            uses the given `gate_context`, or none has gate weights to return.

    Example:

    >>> block = SequentialBlock([keras.layers.Dense(8), CGCBlock(["click", "buy"], [4])])
    >>> {name: tuple(x.shape) for name, x in block(keras.ops.ones((2, 16))).items()}
    {'click': (2, 4), 'buy': (2, 4), 'shared': (2, 4)}
    >>> outputs, weights = block(keras.ops.ones((2, 16)), return_gate_weights=True)
    >>> {level: list(gates) for level, gates in weights.items()} == {
    ...     f"{block.name}/1": ["buy", "click", "shared"]  # alphabetical order
    ... }
    True
    """

    def __init__(self, layers: Sequence[keras.Layer], **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self._chain = _check_layers(layers)  # part of the file format, as "layers"

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers, in order."""
        return list(self._chain)

    def get_layer(self, name: str | None = None, index: SupportsIndex | None = None) -> keras.Layer:
        """Return a layer by its name or its index, as `keras.Sequential` does.

        Args:
            name: The name of one of `layers`.
            index: The index of one of `layers`. Negative ones count from the end.

        Raises:
            KeyError: If no layer has the name.
            IndexError: If the index is out of range.
            ValueError: If not exactly one of `name` and `index` is given.
        """
        if (name is None) == (index is None):
            raise ValueError(f"Either name or index must be given. Received: {name=}, {index=}")
        return self[str(name)] if index is None else self[index]

    def __getitem__(self, key: str | SupportsIndex | slice) -> keras.Layer | list[keras.Layer]:
        """Return a layer by its name or its index, or a list of layers for a slice.

        Raises:
            KeyError: If no layer has the name.
            IndexError: If the index is out of range.
        """
        if not isinstance(key, str):
            return self.layers[key]
        by_name = {layer.name: layer for layer in self._chain}
        if key not in by_name:
            raise KeyError(f"name must be one of {list(by_name)}. Received: name={key!r}")
        return by_name[key]

    def __iter__(self) -> Iterator[keras.Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self._chain)

    def build(
        self, inputs_shape: NestedShape, gate_context_shape: StreamShapes | None = None
    ) -> None:
        inputs = symbolic(inputs_shape, self.compute_dtype)
        context = gate_context_shape and symbolic(gate_context_shape, self.compute_dtype)
        self._run_in_order("__call__", inputs, context)
        self._restore_frozen()

    def call(
        self,
        inputs: Nested,
        training: bool | None = None,
        *,
        gate_context: Streams | None = None,
        return_gate_weights: bool = False,
    ) -> Nested:
        """Call the layers in order."""
        return self._run_in_order("__call__", inputs, gate_context, return_gate_weights)

    def _run_in_order(
        self,
        method: str,
        inputs: Nested,
        gate_context: Streams | None = None,
        return_gate_weights: bool = False,
    ) -> Nested:
        """Call a method of each layer in order, with the gate arguments that the layer takes."""
        of_gates: dict[str, object] = {} if gate_context is None else {"gate_context": gate_context}
        if check_bool(return_gate_weights, "return_gate_weights"):
            of_gates["return_gate_weights"] = True
        unused = [argument for argument in of_gates if argument not in _gate_arguments(self)]
        if unused:
            raise ValueError(
                f"{unused[0]} must not be given, since no layer takes it, such as a CGCBlock with "
                f"gate_reads='context'. Received: {unused[0]}={short_repr(of_gates[unused[0]])}"
            )
        weights: dict[str, ByName] = {}
        for index, layer in enumerate(self._chain):
            arguments = {key: x for key, x in of_gates.items() if key in _gate_arguments(layer)}
            inputs = getattr(layer, method)(inputs, **arguments)
            if "return_gate_weights" in arguments:
                inputs, added = inputs
                is_nested = isinstance(layer, SequentialBlock)
                weights |= added if is_nested else {f"{self.name}/{index}": added}
        # Files identify outputs by position. On PyTorch, Keras does not sort nested dicts, so in
        # any other order a model would swap gates under another backend.
        in_order = {level: dict(sorted(weights[level].items())) for level in sorted(weights)}
        return (inputs, in_order) if return_gate_weights else inputs

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> None:
        """Return None, since the last layer sets the masks of the outputs."""
        return None

    def compute_output_spec(
        self, inputs: Nested, training: bool | None = None, **options: Tensor
    ) -> Nested:
        return self._run_in_order("compute_output_spec", inputs, **options)

    def compute_output_shape(
        self, inputs_shape: NestedShape, gate_context_shape: StreamShapes | None = None
    ) -> NestedShape:
        for layer in self._chain:
            inputs_shape = layer.compute_output_shape(inputs_shape)
        return inputs_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "layers": serialize_layers(self._chain)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        layers = keras.saving.deserialize_keras_object(config["layers"])
        return super().from_config({**config, "layers": layers})


def _gate_arguments(layer: keras.Layer) -> set[str]:
    """Return which of "gate_context" and "return_gate_weights" a layer takes in its calls.

    A SequentialBlock takes an argument if one of its layers does. A CGCBlock takes a context if its
    gates read it.
    """
    if isinstance(layer, SequentialBlock):
        return set().union(*map(_gate_arguments, layer))
    found = {"gate_context", "return_gate_weights"} & {*inspect.signature(layer.call).parameters}
    is_unread = isinstance(layer, CGCBlock) and layer.gate_reads == STREAM
    return found - {"gate_context"} if is_unread else found


def _check_layers(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    if not isinstance(layers, Sequence) or not all(isinstance(x, keras.Layer) for x in layers):
        raise TypeError(f"layers must be a sequence of Keras layers. Received: layers={layers!r}")
    names = [layer.name for layer in layers]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"layers must not be empty or have equal names. Received: layers={names}")
    return list(layers)
