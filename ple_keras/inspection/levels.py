"""The levels of a model, and their keys in logs, reports and plots."""

from itertools import pairwise

import keras

from ple_keras._keras.tensors import number_of_replicas
from ple_keras._keras.walking import Path, walk
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.sequential_block import SequentialBlock


def find_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    """Return every CGCBlock in a model or layer by key, in the order in which they were added.

    The key is `{name of the SequentialBlock}/{index}`, or the block's name outside of a
    SequentialBlock. Equal keys are prefixed with the names of the enclosing layers.

    Raises:
        ValueError: If two levels still have the same key.
    """
    paths = [path for path in walk(model) if _ends_in_level(path)]
    names = [_path_names(path) for path in paths]
    keys = [path[-1] for path in names]
    levels: dict[str, CGCBlock] = {}
    for (*_, block), path in zip(paths, names):
        key = path[-1] if keys.count(path[-1]) == 1 else "/".join(path)
        if key in levels:
            raise ValueError(
                f"model must not contain two blocks with the same name, {key!r}. "
                f"Received: model={model!r}"
            )
        levels[key] = block
    return levels


def _ends_in_level(path: Path) -> bool:
    """Return whether a path ends in a level that is not inside an expert of another level."""
    *parents, layer = path
    return isinstance(layer, CGCBlock) and not any(isinstance(x, CGCBlock) for x in parents)


def _path_names(path: Path) -> list[str]:
    """Return the names of the layers on a path, with `{name}/{index}` in a SequentialBlock.

    The name of the first layer is left out, unless it is the whole path.
    """
    names = [path[0].name]
    for outer, layer in pairwise(path):
        chain = outer.layers if isinstance(outer, SequentialBlock) else []
        places = {id(each): index for index, each in enumerate(chain)}
        if id(layer) not in places:
            names.append(layer.name)
            continue
        if names[-1] == outer.name:
            names.pop()
        names.append(f"{outer.name}/{places[id(layer)]}")
    return names[1:] if len(names) > 1 and names[0] == path[0].name else names


def built_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    """Return the built levels of a model, without those that it never calls.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If it is not built, has no built level, or a strategy has several replicas.
    """
    check_model(model)
    built = {key: block for key, block in find_levels(model).items() if block.built}
    if not built:
        raise ValueError(
            "model must contain a PLEBlock, an MMoEBlock or a CGCBlock that it calls. "
            f"Received: model={model!r}"
        )
    return built


def check_model(model: keras.Layer) -> None:
    """Check that a model can be inspected.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If it is not built, or a strategy has several replicas, which each run every
            batch.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model or layer. Received: model={model!r}")
    replicas = number_of_replicas()
    if replicas > 1:
        raise ValueError(
            "strategy must have one replica during inspection, since each replica runs every "
            "batch: leave `strategy.scope()` first. The model may be created in it. "
            f"Received: strategy.num_replicas_in_sync={replicas}"
        )
    if not model.built:
        raise ValueError(
            "model must be built before inspection: call or train it first. "
            f"Received: model={model!r}, built=False"
        )
