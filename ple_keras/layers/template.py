"""Templates from units or layers."""

from collections.abc import Mapping, Sequence
from typing import SupportsIndex

import keras

from ple_keras._keras.copying import Template, check_copyable
from ple_keras._typing import DType, LayerLike
from ple_keras.layers.expert_block import ExpertBlock, check_units


def as_template(value: LayerLike | Mapping[str, object], argument: str, dtype: DType) -> Template:
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
