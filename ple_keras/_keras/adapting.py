"""Layers with adapted state, such as Normalization and StringLookup.

A copy of a layer through its config has no adapted state. All copies of a network therefore share
one copy of each adapted layer, with its state. A config that contains such a network holds these
states, so that clones keep them.
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


def adapted_layers(model: keras.Layer) -> list[keras.Layer]:
    """Return the layers with `adapt` of a Functional or Sequential model, in order, each once.

    Those of models inside it are included. The order is that of the model's config.
    """
    found = {id(layer): layer for layer in _leaves(model) if _can_adapt(layer)}
    return list(found.values())


def copy_adapted(model: keras.Layer) -> dict[int, keras.Layer]:
    """Return copies of the `adapted_layers` of a model with their states, by the layers' ids.

    States cannot be assigned in `build`, which Keras may call while it traces a step.
    """
    layers = adapted_layers(model)
    copies = {id(layer): copy_layer(layer, layer.name) for layer in layers}
    restore_states(list(copies.values()), [state_of(layer) for layer in layers])
    return copies


def refuse_lost_state(model: keras.Layer, argument: str) -> None:
    """Check that copies of a network with the layers of `copy_adapted` lose no adapted state.

    They lose the state of layers that are not own layers of a Functional or Sequential model.
    """
    for layer in _leaves(model):
        inside = {name: each for name, each in _with_inside(layer) if _can_adapt(each)}
        if not inside or (layer is not model and _can_adapt(layer)):
            continue
        copies = dict(_with_inside(copy_layer(layer, layer.name)))
        for name, each in inside.items():
            if name not in copies or _content(copies[name]) != _content(each):
                raise ValueError(
                    f"{argument} must not contain adapted layers, except directly in a Functional "
                    f"or Sequential model, since its copies would lose the state of {each!r}. "
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


def _can_adapt(layer: keras.Layer) -> bool:
    """Return whether a layer has a method `adapt`, as all layers with adapted state have."""
    return hasattr(layer, "adapt")


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
