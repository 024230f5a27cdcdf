"""The layers inside a layer, by names that hold for every copy of it."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any


def layers_inside(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the layers inside at any depth, outer ones first, each with its name.

    Keras counts automatic names up, so that a copy has others. Here layers whose names are alike
    but for the number are counted within the layer around them:
    "experts.0/expert-click.0/dense.1". The names are part of the file format.
    """
    counts: Counter[str] = Counter()
    for inside in layer._flatten_layers(include_self=False, recursive=False):
        stem = re.sub(r"_\d+$", "", inside.name)
        name = f"{path}{stem}.{counts[stem]}"
        counts[stem] += 1
        yield name, inside
        yield from layers_inside(inside, f"{name}/")
