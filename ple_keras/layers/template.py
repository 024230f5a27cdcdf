"""Templates: layers, given as units or as a layer, that are copied for each use."""

from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import keras

from ple_keras._keras.adapting import (
    adapted_layers,
    copy_adapted,
    refuse_lost_state,
    restore_states,
    state_of,
)
from ple_keras._keras.copying import check_copyable, copy_layer
from ple_keras._keras.untracked import Untracked
from ple_keras._typing import DType, LayerLike
from ple_keras.layers.expert_block import ExpertBlock, check_units


class Template(Untracked[keras.Layer]):
    """A layer that is copied and never used itself.

    Args:
        layer: The layer.
        argument: The name of the caller's argument, for error messages.
    """

    def __init__(self, layer: keras.Layer, argument: str) -> None:
        super().__init__(layer)
        self.argument = argument

    @property
    def layer(self) -> Any:
        return self.value

    def copy(self, name: str, *path: object) -> Any:
        """Return a copy with the name `name` and with seeds derived for `path`."""
        return copy_layer(self.layer, name, *path)

    def serialize(self) -> Any:
        return keras.saving.serialize_keras_object(self.layer)


class FeatureTemplate(Template):
    """A feature network whose copies share one copy of each layer with adapted state.

    Args:
        layer: The network, a layer or model.
        argument: The name of the caller's argument, for error messages.

    Raises:
        TypeError: If `layer` is not a Keras layer.
        ValueError: If the layer cannot be copied, or copies would lose adapted state.
    """

    def __init__(self, layer: keras.Layer, argument: str) -> None:
        if not isinstance(layer, keras.Layer):
            raise TypeError(
                f"{argument} must be an instance of a Keras layer or model. "
                f"Received: {argument}={layer!r}"
            )
        check_copyable(layer, argument)
        refuse_lost_state(layer, argument)
        super().__init__(layer, argument)
        try:
            self._adapted = copy_adapted(layer)
        except Exception as error:
            raise ValueError(
                f"{argument} must contain adapted layers whose state can be copied: {error} "
                f"Call `adapt` first. Received: {argument}={layer!r}"
            ) from error

    @property
    def adapted(self) -> list[keras.Layer]:
        """The adapted layers that all copies share."""
        return list(self._adapted.values())

    def copy(self, name: str, *path: object) -> Any:
        return copy_layer(self.layer, name, *path, replaced=self._adapted)

    def serialize_states(self) -> list[dict[str, Any]]:
        """Return the adapted states, which `serialize` omits."""
        return [state_of(layer) for layer in self.adapted]


def deserialize_network(network: Any, states: Sequence[dict[str, Any]]) -> keras.Layer:
    """Return a network from `serialize` and `serialize_states` of a FeatureTemplate."""
    layer: keras.Layer = keras.saving.deserialize_keras_object(network)
    restore_states(adapted_layers(layer), states)
    return layer


def as_template(
    value: LayerLike | Mapping[str, object] | Template, argument: str, dtype: DType
) -> Template:
    """Return a template from units, from a layer, or from a layer's serialized form.

    Args:
        value: An int or a sequence of ints (the units of an ExpertBlock), any Keras layer, or the
            result of `Template.serialize`.
        argument: The name of the caller's argument, for error messages.
        dtype: The dtype policy of an ExpertBlock from units. Layers keep their own.

    Raises:
        TypeError: If `value` has another type.
        ValueError: If the layer cannot be copied.
    """
    if isinstance(value, Mapping) and "class_name" in value:
        value = keras.saving.deserialize_keras_object(value)
    if isinstance(value, Template):
        value = value.layer
    if isinstance(value, keras.Layer):
        check_copyable(value, argument)
        return Template(value, argument)
    is_units = isinstance(value, Sequence | SupportsIndex)
    if isinstance(value, str | bytes | Mapping | bool) or not is_units:
        raise TypeError(
            f"{argument} must be an int or a sequence of ints (the units of an ExpertBlock), or an "
            f"instance of a Keras layer. Received: {argument}={value!r}"
        )
    units = check_units(value, argument)
    return Template(ExpertBlock(units, dtype=dtype, name=argument), argument)
