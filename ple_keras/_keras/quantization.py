"""Files that keep the quantization of layers."""

import json
from collections.abc import Iterator
from typing import Any

import keras

from ple_keras._keras.base_layer import BaseLayer
from ple_keras._keras.saving import read_text, write_text
from ple_keras._keras.walking import layers_inside, walk
from ple_keras._typing import Store

MODES_KEY = "quantized"


def save_modes(layer: keras.Layer, store: Store) -> None:
    """Write the quantization of the inner layers, which their configs do not contain."""
    modes = {
        name: (inside.quantization_mode, _config_of(inside))
        for name, inside in layers_inside(layer)
        if getattr(inside, "quantization_mode", None)
    }
    if modes:
        write_text(store, MODES_KEY, json.dumps(modes))


def load_modes(layer: keras.Layer, store: Store) -> Any:
    """Quantize the inner layers as in the file, before their own weights are read.

    Returns:
        The other entries of the store.
    """
    text = read_text(store, MODES_KEY)
    if text is None:
        return store
    modes = json.loads(text)
    for name, inside in [*layers_inside(layer), *_layers_by_name_in_0_1_0(layer)]:
        if name in modes and not inside.quantization_mode:
            mode, config = modes[name]
            inside.quantize(mode, config=keras.saving.deserialize_keras_object(config))
    return {key: store[key] for key in store.keys() if key != MODES_KEY}  # noqa: SIM118, no dict


class QuantizableLayer(BaseLayer):
    """A layer whose files contain the quantization of its inner layers."""

    def save_own_variables(self, store: Store) -> None:
        super().save_own_variables(store)
        save_modes(self, store)

    def load_own_variables(self, store: Store) -> None:
        super().load_own_variables(load_modes(self, store))


def _layers_by_name_in_0_1_0(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """Yield the inner layers with their names in files of version 0.1.0."""
    for _, *inside in walk(layer):
        if inside:
            yield "/".join(each.name for each in inside), inside[-1]


def _config_of(layer: keras.Layer) -> Any:
    return keras.saving.serialize_keras_object(getattr(layer, "quantization_config", None))
