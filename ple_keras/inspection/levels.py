"""The levels of a model, under the keys by which logs, reports and pictures call them."""

from importlib import import_module
from itertools import pairwise
from typing import Any

import keras

from ple_keras._keras.walking import Path, walk
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.sequential_block import SequentialBlock


def find_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    """Every CGCBlock in a model or layer, by key, in the order in which they became part of it.

    The key is `{name of the SequentialBlock}/{index in it}`, or the block's own name where it
    stands alone. Where two would be equal, the names of the layers around stand before them.

    Raises:
        ValueError: if even those don't tell two levels apart.
    """
    found = [path for path in walk(model) if _leads_to_level(path)]
    names = [_names(path) for path in found]
    keys = [path[-1] for path in names]
    levels: dict[str, CGCBlock] = {}
    for (*_, block), path in zip(found, names):
        key = path[-1] if keys.count(path[-1]) == 1 else "/".join(path[1:])
        if key in levels:
            raise ValueError(
                f"model must not hold two blocks of one name, {key!r}, whose figures could not be "
                f"told apart. Received: model={model!r}"
            )
        levels[key] = block
    return levels


def _leads_to_level(path: Path) -> bool:
    """Whether a path leads to a level that is not part of another one's expert."""
    *around, layer = path
    return isinstance(layer, CGCBlock) and not any(isinstance(x, CGCBlock) for x in around)


def _names(path: Path) -> list[str]:
    """The names of the layers on a path; the place in a SequentialBlock stands for its layer."""
    names = [path[0].name]
    for outer, layer in pairwise(path):
        if not isinstance(outer, SequentialBlock):
            names.append(layer.name)
            continue
        if names[-1] == outer.name:
            names.pop()
        names.append(f"{outer.name}/{outer.layers.index(layer)}")
    return names


def built_levels(model: keras.Layer) -> dict[str, CGCBlock]:
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
