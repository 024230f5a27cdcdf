"""Traversal of the layers inside a layer, at any depth, and a container that hides layers."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import keras

from ple_keras._keras.internals import children

T = TypeVar("T")
Path = tuple[Any, ...]  # layers, from the outermost to the innermost


class Untracked(Generic[T]):
    """Container of a value that Keras must neither wrap nor track.

    A tracked layer that is never built would slow down every step.
    """

    def __init__(self, value: T) -> None:
        self.value = value


def walk(layer: keras.Layer) -> Iterator[Path]:
    """Yield the paths of a layer and its inner layers, outer ones first, each layer once."""
    yield (layer,)
    yield from _walk_inside((layer,), {id(layer)})


def find_layers(layer: keras.Layer, kind: type[keras.Layer]) -> list[Any]:
    """Return the instances of a class among a layer and its inner layers, each once."""
    return [path[-1] for path in walk(layer) if isinstance(path[-1], kind)]


def layers_inside(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """Yield the inner layers, outer ones first, by names that are the same in every copy.

    Keras numbers automatic names globally, so the names differ in a copy. Here, layers whose names
    differ only in the number are numbered within their outer layer:
    "experts.0/expert-click.0/dense.1". The names are part of the file format. A layer inside two
    others has two names.
    """
    prefixes: dict[tuple[int, ...], str] = {
        (id(layer),): ""
    }  # by identity, since layers may define `__eq__`
    counts: Counter[str] = Counter()
    for path in _walk_inside((layer,)):
        *outer, inside = map(id, path)
        stem = prefixes[tuple(outer)] + re.sub(r"_\d+$", "", path[-1].name)
        name = f"{stem}.{counts[stem]}"
        counts[stem] += 1
        prefixes[(*outer, inside)] = f"{name}/"
        yield name, path[-1]


def _walk_inside(path: Path, seen: set[int] | None = None) -> Iterator[Path]:
    """Yield the paths of the inner layers of a path's last layer, without those already seen."""
    for layer in children(path[-1]):
        if seen is not None:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
        yield (*path, layer)
        yield from _walk_inside((*path, layer), seen)
