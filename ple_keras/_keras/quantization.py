"""`Model.quantize` and our layers: Keras finds all that can be quantized, and files keep it so."""

import json
from collections.abc import Iterator
from typing import Any

import keras

from ple_keras._keras.building import Untracked
from ple_keras._keras.saving import read_text, write_text
from ple_keras._keras.walking import layers_inside, walk
from ple_keras._typing import Store

MODES_KEY = "quantized"


class QuantizeForwarder(keras.Layer):
    """Passes `quantize` on to a layer that has weights of its own and layers inside.

    `Model.quantize` asks only layers without any inside, and leaves the others out in silence.
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
    """Refuse modes that train or calibrate; `Model.quantize` makes a warning of it."""
    if mode not in ("int8", "int4"):
        raise NotImplementedError(
            f"The stacked experts of {layer.path!r} can be quantized to 'int8' or 'int4' only, "
            f"and are left as they are. Received: mode={mode!r}"
        )


def save_modes(layer: keras.Layer, store: Store) -> None:
    """Put down how the layers inside are quantized, for their configs don't tell."""
    modes = {
        name: (inside.quantization_mode, _config_of(inside))
        for name, inside in layers_inside(layer)
        if getattr(inside, "quantization_mode", None)
    }
    if modes:
        write_text(store, MODES_KEY, json.dumps(modes))


def load_modes(layer: keras.Layer, store: Store) -> dict[str, Any]:
    """Quantize the layers inside as the file has them, before their own weights are read.

    Returns:
        What else is in the store.
    """
    text = read_text(store, MODES_KEY)
    if text is not None:
        modes = json.loads(text)
        for name, inside in [*layers_inside(layer), *_by_their_own_names(layer)]:
            if name in modes and not inside.quantization_mode:
                mode, config = modes[name]
                inside.quantize(mode, config=keras.saving.deserialize_keras_object(config))
    return {key: store[key] for key in store.keys() if key != MODES_KEY}  # noqa: SIM118, no mapping


class SavesQuantization:
    """A layer whose files tell how the layers inside it are quantized."""

    def save_own_variables(self, store: Store) -> None:
        super().save_own_variables(store)  # type: ignore[misc]
        save_modes(self, store)

    def load_own_variables(self, store: Store) -> None:
        super().load_own_variables(load_modes(self, store))  # type: ignore[misc]


def _by_their_own_names(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """The layers inside as files of version 0.1.0 name them."""
    for _, *inside in walk(layer):
        if inside:
            yield "/".join(each.name for each in inside), inside[-1]


def _config_of(layer: keras.Layer) -> Any:
    return keras.saving.serialize_keras_object(getattr(layer, "quantization_config", None))
