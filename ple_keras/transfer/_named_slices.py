"""What a model's weights belong to, by name: experts, gates, heads, and all else by path."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import keras

from ple_keras._keras.internals import children
from ple_keras._keras.walking import Path, walk
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.layers._level.expert_bank import WeightSlice
from ple_keras.layers._level.weight_slices import level_slices
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.gate import Gate

WeightSlices = dict[str, list[WeightSlice]]
Named = tuple[
    str, str, list[WeightSlice]
]  # a name, a longer one in case others have it too, the parts


def slices_of_levels(levels: Mapping[str, CGCBlock]) -> WeightSlices:
    """The parts of the experts and gates of built levels, each under its level's name."""
    return {
        f"{level}/{name}": part
        for level, block in levels.items()
        for name, part in level_slices(block).items()
    }


def named_slices(model: keras.Layer, levels: Mapping[str, CGCBlock]) -> WeightSlices:
    """Everything that a built model has learned, by what it belongs to.

    Args:
        model: The model or layer.
        levels: Its built levels, by name.

    Raises:
        ValueError: if two things have one name.
    """
    layers = [(_path_of(path), path[-1]) for path in walk(model)]
    found = [(name, name, part) for name, part in slices_of_levels(levels).items()]
    for path, layer in layers:
        if isinstance(layer, Head):
            found += _head_slices(layer, path)
        elif isinstance(layer, TaskHeads):
            found += _loss_weight_slices(layer, path)
    known = {id(variable) for *_, part in found for variable, _ in part}
    return _by_name([*found, *_other_slices(layers, known)], model)


def _path_of(path: Path) -> str:
    """The names of the layers on a path, without the model's.

    Keras's own paths lack the models around a layer, and change when a file is loaded.
    """
    return "".join(f"{layer.name}/" for layer in path[1:])


def _head_slices(head: Head, path: str) -> Iterator[Named]:
    tower = getattr(head, "_tower", None)
    of_tower = tower.weights if tower else []
    ids = {id(weight) for weight in of_tower}
    rest = [weight for weight in head.weights if id(weight) not in ids]
    for name, weights in (("tower", of_tower), ("head", rest)):
        if weights:
            yield f"{head.task}/{name}", f"{path}{name}", [(weight, ()) for weight in weights]


def _loss_weight_slices(heads: TaskHeads, path: str) -> Iterator[Named]:
    variables = [heads._loss_weights.multipliers, heads._loss_weights.log_variances]
    for index, head in enumerate(heads._heads()):
        name = f"{head.task}/loss_weight"
        yield name, f"{path}{name}", [(v, (index,)) for v in variables if v is not None]


def _other_slices(layers: Iterable[tuple[str, keras.Layer]], known: set[int]) -> Iterator[Named]:
    """The weights that are not known, by path; a gate's own are statistics."""
    for path, layer in layers:
        of_children = {id(weight) for child in children(layer) for weight in child.weights}
        for weight in layer.weights:
            if id(weight) in of_children | known or isinstance(layer, Gate):
                continue
            known.add(id(weight))
            yield f"{path}{weight.name}", f"{path}{weight.name}", [(weight, ())]


def _by_name(found: list[Named], model: keras.Layer) -> WeightSlices:
    counts = Counter(name for name, *_ in found)
    parts: WeightSlices = {}
    for short, long, part in found:
        name = short if counts[short] == 1 else long
        if name in parts:
            raise ValueError(
                "source and target must not hold two weights, or heads, of one name, which could "
                f"not be told apart: {name!r}. Received: model={model!r}"
            )
        parts[name] = part
    return parts
