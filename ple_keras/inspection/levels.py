"""The levels of a model, under the keys by which logs, reports and pictures call them."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import keras

from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.sequential_block import SequentialBlock

Path = tuple[str, ...]


def find_levels(model: Any) -> dict[str, CGCBlock]:
    """Every CGCBlock in a model or layer, by key, in the order in which they became part of it.

    The key is `{name of the SequentialBlock}/{index in it}`, or the block's own name where it
    stands alone. Where two would be equal, the names of the layers around stand before them.

    Raises:
        ValueError: if even those don't tell two levels apart.
    """
    found = list(_walk(model, (model.name,), set()))
    keys = [path[-1] for path, _ in found]
    levels: dict[str, CGCBlock] = {}
    for path, block in found:
        key = path[-1] if keys.count(path[-1]) == 1 else "/".join(path[1:])
        if key in levels:
            raise ValueError(
                f"model must not hold two blocks of one name, {key!r}, whose figures could not be "
                f"told apart. Received: model={model!r}"
            )
        levels[key] = block
    return levels


def _walk(layer: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, CGCBlock]]:
    """The levels in a layer, each with the names of the layers around it and its key."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    if isinstance(layer, CGCBlock):
        yield path, layer
    elif isinstance(layer, SequentialBlock):
        around = path[:-1] if path[-1] == layer.name else path
        for index, child in enumerate(layer.layers):
            yield from _walk(child, (*around, f"{layer.name}/{index}"), seen)
    else:
        for child in layer._layers:
            yield from _walk(child, (*path, child.name), seen)


def built_levels(model: Any) -> dict[str, CGCBlock]:
    """The built levels of a model that has some; those that it never calls are left out.

    Raises:
        TypeError: if `model` is no Keras model or layer.
        ValueError: if it has no level, or none is built; or among replicas, see
            `_check_runs_once`.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model or layer. Received: model={model!r}")
    _check_runs_once()
    levels = find_levels(model)
    built = {key: block for key, block in levels.items() if block.built}
    if built and model.built:
        return built
    if not levels and model.built:
        raise ValueError(
            f"model must contain a PLEBlock, an MMoEBlock or a CGCBlock. Received: model={model!r}"
        )
    raise ValueError(
        "model must be built: call it on data, or train it, before you look into it. "
        f"Received: model={model!r}, built=False"
    )


def _check_runs_once() -> None:
    """Refuse the scope of a `tf.distribute` strategy: each replica would run every batch."""
    if keras.backend.backend() != "tensorflow":
        return
    tf: Any = import_module("tensorflow")
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        raise ValueError(
            "strategy must have one replica while you look into a model, or each would run every "
            "batch: leave its `strategy.scope()` first, the model may have been made there. "
            f"Received: strategy.num_replicas_in_sync={replicas}"
        )
