"""The weights of a model by name: of experts, gates, heads and streams; others by path."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import keras

from ple_keras._keras.internals import children
from ple_keras._keras.walking import Path, walk
from ple_keras._typing import WeightSlice
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.gate import Gate
from ple_keras.layers.stream_features import StreamFeatures
from ple_keras.layers.weight_slices import level_slices, stream_slices

WeightSlices = dict[str, list[WeightSlice]]
# A short name, a longer one for names that are not unique, and the slices.
NamedSlices = tuple[str, str, list[WeightSlice]]


def slices_of_levels(levels: Mapping[str, CGCBlock]) -> WeightSlices:
    """Return the slices of the experts and gates of built levels, prefixed with the level."""
    return {
        f"{level}/{name}": slices
        for level, block in levels.items()
        for name, slices in level_slices(block).items()
    }


def named_slices(model: keras.Layer, levels: Mapping[str, CGCBlock]) -> WeightSlices:
    """Return all weights of a built model by name.

    Args:
        model: The model or layer.
        levels: Its built levels, by name.

    Raises:
        ValueError: If two of them have the same name.
    """
    layers = [(_path_prefix(path), path[-1]) for path in walk(model)]
    found = [(name, name, slices) for name, slices in slices_of_levels(levels).items()]
    for path, layer in layers:
        if isinstance(layer, Head):
            found += _head_slices(layer, path)
        elif isinstance(layer, TaskHeads):
            found += _loss_weight_slices(layer, path)
        elif isinstance(layer, StreamFeatures):
            slices_by_stream = stream_slices(layer).items()
            found += [(name, f"{path}{name}", slices) for name, slices in slices_by_stream]
    known = {id(variable) for *_, slices in found for variable, _ in slices}
    return _by_name([*found, *_other_slices(layers, known)], model)


def _path_prefix(path: Path) -> str:
    """Return the names of the layers on a path, without the model's.

    Keras's own paths omit the enclosing models, and change when a file is loaded.
    """
    return "".join(f"{layer.name}/" for layer in path[1:])


def _head_slices(head: Head, path: str) -> Iterator[NamedSlices]:
    tower = getattr(head, "_tower", None)
    of_tower = tower.weights if tower else []
    ids = {id(weight) for weight in of_tower}
    rest = [weight for weight in head.weights if id(weight) not in ids]
    for name, weights in (("tower", of_tower), ("head", rest)):
        if weights:
            yield f"{head.task}/{name}", f"{path}{name}", [(weight, ()) for weight in weights]


def _loss_weight_slices(heads: TaskHeads, path: str) -> Iterator[NamedSlices]:
    variables = [heads._loss_weights.multipliers, heads._loss_weights.log_variances]
    for index, head in enumerate(heads._heads()):
        name = f"{head.task}/loss_weight"
        yield name, f"{path}{name}", [(v, (index,)) for v in variables if v is not None]


def _other_slices(
    layers: Iterable[tuple[str, keras.Layer]], known: set[int]
) -> Iterator[NamedSlices]:
    """Yield the weights that are not known, by path; skip the statistics of gates."""
    for path, layer in layers:
        of_children = {id(weight) for child in children(layer) for weight in child.weights}
        for weight in layer.weights:
            if id(weight) in of_children | known or isinstance(layer, Gate):
                continue
            known.add(id(weight))
            yield f"{path}{weight.name}", f"{path}{weight.name}", [(weight, ())]


def _by_name(found: list[NamedSlices], model: keras.Layer) -> WeightSlices:
    counts = Counter(name for name, *_ in found)
    by_name: WeightSlices = {}
    for short, long, slices in found:
        name = short if counts[short] == 1 else long
        if name in by_name:
            raise ValueError(
                "source and target must not contain two weights or heads with the same name, "
                f"{name!r}. Received: model={model!r}"
            )
        by_name[name] = slices
    return by_name
