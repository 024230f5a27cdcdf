"""Support for `Model.quantize`, and files that keep the quantization of layers."""

import json
from collections.abc import Iterator
from typing import Any

import keras

from ple_keras._keras.saving import read_text, write_text
from ple_keras._keras.walking import Untracked, layers_inside, walk
from ple_keras._typing import Store

MODES_KEY = "quantized"


class QuantizeForwarder(keras.Layer):
    """Layer that forwards `quantize` to a parent that has both weights and inner layers.

    `Model.quantize` calls only layers without inner layers and skips the others silently.
    """

    def __init__(self, parent: keras.Layer, name: str) -> None:
        super().__init__(name=name, dtype=parent.dtype_policy)
        self._parent = Untracked(parent)
        self._mode: str | None = None
        self.built = True

    def quantize(self, mode: str, type_check: bool = True, config: object = None) -> None:
        self._parent.value.quantize(mode, config=config)
        self.quantization_config = config
        self._mode = mode

    @property
    def quantization_mode(self) -> str | None:
        return self._mode


def check_quantization_mode(mode: str, layer: keras.Layer) -> None:
    """Check that a mode needs no training or calibration. `Model.quantize` warns of the error."""
    if mode not in ("int8", "int4"):
        raise NotImplementedError(
            f"The stacked experts of {layer.path!r} support only the modes 'int8' and 'int4' and "
            f"were not quantized. Received: mode={mode!r}"
        )


def save_modes(layer: keras.Layer, store: Store) -> None:
    """Write the quantization of the inner layers, which their configs do not contain."""
    modes = {
        name: (inside.quantization_mode, _config_of(inside))
        for name, inside in layers_inside(layer)
        if getattr(inside, "quantization_mode", None)
    }
    if modes:
        write_text(store, MODES_KEY, json.dumps(modes))


def load_modes(layer: keras.Layer, store: Store) -> dict[str, Any]:
    """Quantize the inner layers as in the file, before their own weights are read.

    Returns:
        The other entries of the store.
    """
    text = read_text(store, MODES_KEY)
    if text is not None:
        modes = json.loads(text)
        for name, inside in [*layers_inside(layer), *_layers_by_name_in_0_1_0(layer)]:
            if name in modes and not inside.quantization_mode:
                mode, config = modes[name]
                inside.quantize(mode, config=keras.saving.deserialize_keras_object(config))
    return {key: store[key] for key in store.keys() if key != MODES_KEY}  # noqa: SIM118, no dict


class SavesQuantization:
    """Mixin for layers whose files contain the quantization of their inner layers."""

    def save_own_variables(self, store: Store) -> None:
        super().save_own_variables(store)  # type: ignore[misc]
        save_modes(self, store)

    def load_own_variables(self, store: Store) -> None:
        super().load_own_variables(load_modes(self, store))  # type: ignore[misc]


def _layers_by_name_in_0_1_0(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """Yield the inner layers with their names in files of version 0.1.0."""
    for _, *inside in walk(layer):
        if inside:
            yield "/".join(each.name for each in inside), inside[-1]


def _config_of(layer: keras.Layer) -> Any:
    return keras.saving.serialize_keras_object(getattr(layer, "quantization_config", None))
