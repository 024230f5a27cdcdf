"""Templates from units or layers, one for all streams of a level or one per stream."""

from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex, TypeGuard

import keras

from ple_keras._checks import check_keys
from ple_keras._keras.copying import Template, checked_copy
from ple_keras._keras.layers import Untracked
from ple_keras._typing import DType, LayerLike, StreamLayers
from ple_keras.layers.expert_block import ExpertBlock, check_units


def as_template(value: LayerLike | Mapping[str, object], argument: str, dtype: DType) -> Template:
    """Return a template from units, from a layer, or from a layer's serialized form.

    Args:
        value: An int or a sequence of ints (the units of an ExpertBlock), any Keras layer, or the
            result of `Template.serialize`.
        argument: The name of the caller's argument, for error messages.
        dtype: The dtype policy of an ExpertBlock from units. Layers keep their own policy.

    Raises:
        TypeError: If `value` has any other type.
        ValueError: If the layer can't be copied.
    """
    if isinstance(value, Mapping) and "class_name" in value:
        value = keras.saving.deserialize_keras_object(value)
    if isinstance(value, keras.Layer):
        return Template(checked_copy(value, argument, value.name), argument)
    is_units = isinstance(value, Sequence | SupportsIndex)
    if isinstance(value, str | bytes | Mapping | bool) or not is_units:
        raise TypeError(
            f"{argument} must be an int or a sequence of ints (the units of an ExpertBlock), or an "
            f"instance of a Keras layer. Received: {argument}={value!r}"
        )
    units = check_units(value, argument)
    name, *_ = argument.split("[")  # layer names can't contain brackets
    return Template(ExpertBlock(units, dtype=dtype, name=name), argument)


def as_optional_template(
    value: LayerLike | Mapping[str, object] | None, argument: str, dtype: DType
) -> Template | None:
    """Return a template as `as_template`; None for None."""
    return None if value is None else as_template(value, argument, dtype)


class StreamTemplates(Untracked[dict[str, Template]]):
    """The template of the experts of each stream of a level.

    Args:
        by_stream: The templates, in the order of the streams.
        is_common: Whether one template was given for all streams.

    Attributes:
        layer: The layers that configs describe: one, or one per stream.
    """

    def __init__(self, by_stream: dict[str, Template], is_common: bool) -> None:
        super().__init__(by_stream)
        self.is_common = is_common
        layers = {stream: template.layer for stream, template in by_stream.items()}
        self.layer: Any = next(iter(layers.values())) if is_common else layers


def as_stream_templates(
    value: StreamLayers | Mapping[str, object], streams: Sequence[str], argument: str, dtype: DType
) -> StreamTemplates:
    """Return the template of each stream, from one for all streams or a dict keyed by stream.

    Args:
        value: As for `as_template`, or a dict of such values keyed by stream.
        streams: The streams, in order.
        argument: As for `as_template`.
        dtype: As for `as_template`.

    Raises:
        TypeError: As for `as_template`.
        ValueError: As for `as_template`, and if the keys of a dict are not the streams.
    """
    if not is_by_stream(value):
        template = as_template(value, argument, dtype)
        return StreamTemplates(dict.fromkeys(streams, template), is_common=True)
    check_keys(value, streams, argument)
    by_stream = {s: as_template(value[s], f"{argument}[{s!r}]", dtype) for s in streams}
    return StreamTemplates(by_stream, is_common=False)


def is_by_stream(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a value is a dict of templates keyed by stream, not a serialized layer."""
    return isinstance(value, Mapping) and not isinstance(value.get("class_name"), str)
