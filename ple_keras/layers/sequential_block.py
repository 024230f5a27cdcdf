"""A sequence of layers that accepts dicts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import keras

from ple_keras._checks import check_bool
from ple_keras._keras.building import symbolic
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.registration import register
from ple_keras._keras.saving import built_names, deserialize_children, serialize_children
from ple_keras._typing import ByName, Nested, NestedShape, Streams, StreamShapes
from ple_keras.layers._level.gate_arguments import TakesGateArguments, takes
from ple_keras.layers._level.gate_context import shape_of


@register
class SequentialBlock(TakesGateArguments, FreezableLayer):
    """A sequence of layers, like `keras.Sequential`, but a layer and not a model.

    The inputs and the outputs of each layer may be dicts of tensors of any rank. Building the
    block builds all its layers. The gates of all CGCBlocks in it can read one context, and the
    block can return their weights.

    Args:
        layers: The layers, in the order in which they are called. Their names must differ.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: The inputs of the first layer, such as a tensor `(..., D)` or a dict of tensors.
        training: Passed to every layer.
        gate_context: The context of the gates, `(..., C)`, as for CGCBlock. Every layer whose gates
            read a context gets the same one.
        return_gate_weights: Whether to return the gate weights of all CGCBlocks too.

    Returns:
        The outputs of the last layer, such as `{task: (..., H)}`. With `return_gate_weights`, a
        tuple of them and `{"{name of this block}/{index}": {gate: (..., experts)}}`, see CGCBlock.
        A SequentialBlock inside this one adds its levels under its own name. Levels and gates are
        in alphabetical order, so that a saved model has the same outputs on every backend.

    Raises:
        TypeError: If `layers` is not a sequence of layers.
        ValueError: If `layers` is empty, or two layers have the same name. In a call, if
            `gate_context` or `return_gate_weights` is given, but no layer takes it.

    Example:

    >>> block = SequentialBlock([keras.layers.Dense(8), CGCBlock(["click", "buy"], [4])])
    >>> {name: tuple(x.shape) for name, x in block(keras.ops.ones((2, 16))).items()}
    {'click': (2, 4), 'buy': (2, 4), 'shared': (2, 4)}
    >>> outputs, weights = block(keras.ops.ones((2, 16)), return_gate_weights=True)
    >>> {level: list(gates) for level, gates in weights.items()} == {
    ...     f"{block.name}/1": ["buy", "click", "shared"]  # in alphabetical order
    ... }
    True
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

        Args:
            name: The name of one of `layers`.

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

    def build(
        self,
        inputs_shape: NestedShape | None = None,  # Keras passes none for an empty dict
        gate_context_shape: StreamShapes | None = None,
    ) -> None:
        if not inputs_shape:
            raise ValueError(
                "inputs must be a tensor, or a dict or list of at least one tensor. "
                f"Received: inputs.shape={inputs_shape}"
            )
        inputs, context = symbolic(inputs_shape, self.compute_dtype), None
        if gate_context_shape is not None:
            context = symbolic(gate_context_shape, self.compute_dtype)
        self._run_in_order(lambda layer: layer, inputs, context)
        self._restore_frozen()

    def _takes(self, argument: str) -> bool:
        return any(takes(layer, argument) for layer in self._chain)

    def _serialized_layers(self) -> list[keras.Layer]:
        return self.layers

    def call(
        self,
        inputs: Nested,
        training: bool | None = None,
        *,
        gate_context: Streams | None = None,
        return_gate_weights: bool = False,
    ) -> Any:
        """Call the layers in order."""
        return self._run_in_order(lambda layer: layer, inputs, gate_context, return_gate_weights)

    def _run_in_order(
        self,
        function_of: Callable[[keras.Layer], Any],
        inputs: Nested,
        context: Streams | None,
        returns_weights: bool = False,
    ) -> Any:
        """Apply a function of each layer in order, with the arguments of gates that it takes."""
        check_bool(returns_weights, "return_gate_weights")
        self._refuse_unused(context, returns_weights)
        weights: dict[str, ByName] = {}
        for index, layer in enumerate(self._chain):
            arguments: dict[str, Any] = {}
            if context is not None and takes(layer, "gate_context"):
                arguments["gate_context"] = context
            if returns_weights and takes(layer, "return_gate_weights"):
                arguments["return_gate_weights"] = True
            inputs = function_of(layer)(inputs, **arguments)
            if "return_gate_weights" in arguments:
                inputs, of_layer = inputs
                is_nested = isinstance(layer, SequentialBlock)
                _add_weights(weights, of_layer if is_nested else {f"{self.name}/{index}": of_layer})
        return (inputs, _sort_keys(weights)) if returns_weights else inputs

    def _refuse_unused(self, context: Streams | None, returns_weights: bool) -> None:
        if context is not None and not self._takes("gate_context"):
            raise ValueError(
                "gate_context must be None, since no layer reads it: its CGCBlocks need "
                'gate_reads="context" or gate_reads="both". '
                f"Received: gate_context.shape={shape_of(context)}"
            )
        if returns_weights and not self._takes("return_gate_weights"):
            raise ValueError(
                "return_gate_weights must be False, since no layer has gates. "
                f"Received: return_gate_weights=True, layers={self.layers}"
            )

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> None:
        """Return None, since the last layer sets the masks of the outputs."""
        return None

    def compute_output_spec(
        self,
        inputs: Nested,
        training: bool | None = None,
        *,
        gate_context: Streams | None = None,
        return_gate_weights: bool = False,
    ) -> Any:
        return self._run_in_order(
            lambda layer: layer.compute_output_spec, inputs, gate_context, return_gate_weights
        )

    def compute_output_shape(
        self, inputs_shape: NestedShape, gate_context_shape: StreamShapes | None = None
    ) -> Any:
        for layer in self._chain:
            inputs_shape = layer.compute_output_shape(inputs_shape)
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        layers = serialize_children(self._chain, self._came_built)
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return super().from_config({**config, "layers": deserialize_children(config["layers"])})


def _add_weights(weights: dict[str, ByName], added: Mapping[str, ByName]) -> None:
    """Add the gate weights of levels to those of others."""
    for level, of_level in added.items():
        if level in weights:
            raise ValueError(
                "layers must not contain two blocks with one name to return gate weights by level. "
                f"Received: return_gate_weights=True, with two levels {level!r}"
            )
        weights[level] = of_level


def _sort_keys(weights: Mapping[str, ByName]) -> dict[str, ByName]:
    """Return levels and gates in alphabetical order.

    A file refers to outputs by their position. On PyTorch, Keras does not sort a dict in a dict, so
    in any other order a model would return other gates under another backend.
    """
    return {level: dict(sorted(weights[level].items())) for level in sorted(weights)}


def _check_layers(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    if not isinstance(layers, Sequence) or not all(isinstance(x, keras.Layer) for x in layers):
        raise TypeError(f"layers must be a sequence of Keras layers. Received: layers={layers!r}")
    if not layers:
        raise ValueError("layers must hold at least one layer. Received: layers=[]")
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise ValueError(f"layers must have different names. Received: layers={names}")
    return list(layers)
