"""Layers with adapted state, such as Normalization and StringLookup.

A copy of a layer through its config has no adapted state. All copies of a network therefore share
its adapted layers. A config that contains such a network holds their state, so that clones keep it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.copying import copy_layer, is_graph
from ple_keras._keras.internals import SHARED_ID_KEY
from ple_keras._keras.walking import layers_inside


def can_adapt(layer: keras.Layer) -> bool:
    """Return whether a layer has a method `adapt`, as all layers with adapted state have."""
    return hasattr(layer, "adapt")


def adapted_layers(model: keras.Layer) -> list[keras.Layer]:
    """Return the layers with `adapt` of a Functional or Sequential model, in order, each once.

    Those of models inside it are included. They are the layers that `copy_layer` shares with
    `share_adapted=True`. The order is that of the model's config.
    """
    found = {id(layer): layer for layer in _leaves(model) if can_adapt(layer)}
    return list(found.values())


def refuse_lost_state(model: keras.Layer, argument: str) -> None:
    """Check that copies of a network lose no adapted state.

    They lose it if the layer is not an own layer of a Functional or Sequential model, but inside
    another layer, or the network itself.
    """
    for layer in _leaves(model):
        if layer is not model and can_adapt(layer):
            continue
        copies = dict(_with_inside(copy_layer(layer, layer.name)))
        for name, inside in _with_inside(layer):
            copy = copies.get(name)
            if can_adapt(inside) and (copy is None or _content(copy) != _content(inside)):
                raise ValueError(
                    f"{argument} must not contain adapted layers, except directly in a Functional "
                    f"or Sequential model, since its copies would lose the state of {inside!r}. "
                    "Apply this layer to the inputs, before the copies. "
                    f"Received: {argument}={model!r}"
                )


def state_of(layer: keras.Layer) -> dict[str, Any]:
    """Return the adapted state of a layer as JSON."""
    variables: dict[str, np.ndarray] = {}
    layer.save_own_variables(variables)
    assets = {}
    if hasattr(layer, "save_assets"):
        with TemporaryDirectory() as folder:
            layer.save_assets(folder)
            assets = {path.name: path.read_text("utf-8") for path in Path(folder).iterdir()}
    return {
        # Not under Keras's own key for these shapes, which other containers remove from configs.
        "shapes": layer.get_build_config(),
        "variables": {key: ops.convert_to_numpy(x).tolist() for key, x in variables.items()},
        "assets": assets,
    }


def restore_states(layers: Sequence[keras.Layer], states: Sequence[dict[str, Any]]) -> None:
    """Give layers the states that `state_of` returned, in the same order."""
    for layer, state in zip(layers, states):
        if state["shapes"] and not layer.built:
            layer.build_from_config(state["shapes"])
        layer.load_own_variables({key: np.array(x) for key, x in state["variables"].items()})
        if state["assets"]:
            with TemporaryDirectory() as folder:
                for name, text in state["assets"].items():
                    (Path(folder) / name).write_text(text, "utf-8")
                layer.load_assets(folder)


def _leaves(model: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the layers of nested Functional and Sequential models, or a layer itself."""
    if not is_graph(model):
        yield model
        return
    for layer in model.layers:
        yield from _leaves(layer)


def _with_inside(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    yield "", layer
    yield from layers_inside(layer)


def _content(layer: keras.Layer) -> Any:
    """Return the config and state of a layer, without its name and the shapes it was built with."""
    state = state_of(layer)
    config = keras.saving.serialize_keras_object({**layer.get_config(), "name": None})
    return _without_ids(config), state["variables"], state["assets"]


def _without_ids(config: Any) -> Any:
    """Return a part of a config without the ids of objects, which Keras adds while it loads."""
    if isinstance(config, Mapping):
        return {key: _without_ids(x) for key, x in config.items() if key != SHARED_ID_KEY}
    return [_without_ids(x) for x in config] if isinstance(config, list | tuple) else config
