"""The layers inside a layer, at any depth."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras

from ple_keras._keras.internals import children

Path = tuple[Any, ...]  # layers, from the outermost to the one that the path leads to


def walk(layer: keras.Layer) -> Iterator[Path]:
    """Yield the path to a layer and to those inside, outer ones first, each layer once."""
    yield (layer,)
    yield from _inside((layer,), {id(layer)})


def find_layers(layer: keras.Layer, kind: type[keras.Layer]) -> list[Any]:
    """Return the layers of a class in a layer, itself included, each once."""
    return [path[-1] for path in walk(layer) if isinstance(path[-1], kind)]


def layers_inside(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """Yield the layers inside, outer ones first, by names that hold for every copy of the layer.

    Keras counts automatic names up, so that a copy has others. Here layers whose names are alike
    but for the number are counted within the layer around them:
    "experts.0/expert-click.0/dense.1". The names are part of the file format. A layer inside two
    others has two.
    """
    names: dict[Path, str] = {(layer,): ""}
    counts: Counter[tuple[Path, str]] = Counter()
    for *outer, inside in _inside((layer,)):
        parent = tuple(outer)
        stem = re.sub(r"_\d+$", "", inside.name)
        name = f"{names[parent]}{stem}.{counts[parent, stem]}"
        counts[parent, stem] += 1
        names[(*parent, inside)] = f"{name}/"
        yield name, inside


def _inside(path: Path, seen: set[int] | None = None) -> Iterator[Path]:
    """Yield the paths into the last layer of a path, those to seen layers left out."""
    for layer in children(path[-1]):
        if seen is not None:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
        yield (*path, layer)
        yield from _inside((*path, layer), seen)
