"""Templates of layers: given as units or as a layer, copied for each use."""

from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import keras

from ple_keras._keras.building import Untracked
from ple_keras._keras.copying import check_copyable, copy_layer
from ple_keras._typing import DType, LayerLike
from ple_keras.layers.expert_block import ExpertBlock, check_units


class Template(Untracked[keras.Layer]):
    """A layer that is copied and never used itself; `argument` is what the caller calls it."""

    def __init__(self, layer: keras.Layer, argument: str) -> None:
        super().__init__(layer)
        self.argument = argument

    @property
    def layer(self) -> Any:
        return self.value

    def copy(self, name: str, *path: object) -> Any:
        """A layer of its own, its seeds derived for `path`."""
        return copy_layer(self.layer, name, *path)

    def serialize(self) -> Any:
        return keras.saving.serialize_keras_object(self.layer)


def as_template(
    value: LayerLike | Mapping[str, object] | Template, argument: str, dtype: DType
) -> Template:
    """A template from units, from a layer, or from a layer's serialized form.

    Args:
        value: An int or a sequence of ints (the units of an ExpertBlock), any Keras layer, or
            what `Template.serialize` returned.
        argument: The name under which the caller took the value, for messages.
        dtype: The dtype policy of an ExpertBlock made from units; a layer keeps its own.

    Raises:
        TypeError: if `value` is none of these.
        ValueError: if the layer cannot be copied.
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
