"""The levels of a model."""

from itertools import pairwise

import keras

from ple_keras._keras.building import check_model
from ple_keras._keras.layers import Path, walk
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.sequential_block import SequentialBlock


def find_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    """Return a dict of every CGCBlock in a model or layer, in the order in which they were added.

    A key is `{name of the SequentialBlock}/{index}`, or the block's name outside of a
    SequentialBlock. Equal keys are prefixed with the names of the enclosing layers.

    Raises:
        ValueError: If two levels still have the same key.
    """
    paths = []
    for path in walk(model):
        levels = [layer for layer in path if isinstance(layer, CGCBlock)]
        if levels == [path[-1]]:  # a level inside an expert of another level does not count
            paths.append(path)
    keys = [_path_names(path)[-1] for path in paths]
    found: dict[str, CGCBlock] = {}
    for path in paths:
        *outer, key = _path_names(path)
        key = key if keys.count(key) == 1 else "/".join([*outer, key])
        if key in found:
            raise ValueError(f"model must not have two blocks called {key!r}. Received: {model=}")
        found[key] = path[-1]
    return found


def _path_names(path: Path) -> list[str]:
    """Return the names of the layers on a path, with `{name}/{index}` in a SequentialBlock.

    The name of the first layer is omitted, unless it is the whole path.
    """
    names = []
    for outer, layer in pairwise(path):
        if isinstance(outer, SequentialBlock) and layer in outer.layers:
            names.append(f"{outer.name}/{outer.layers.index(layer)}")
        elif not isinstance(layer, SequentialBlock):
            names.append(layer.name)
    return names or [path[0].name]


def built_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    """Return the built levels of a model, without levels that it never calls.

    Raises:
        TypeError, ValueError: As for `check_model`, and if the model has no built level.
    """
    check_model(model)
    built = {key: block for key, block in find_levels(model).items() if block.built}
    if not built:
        raise ValueError(f"model must call a PLEBlock, MMoEBlock or CGCBlock. Received: {model=}")
    return built
