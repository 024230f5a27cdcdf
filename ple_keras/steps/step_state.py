"""What a step reads besides variables and batches: attributes, containers and generators."""

import random
import sys
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from operator import is_
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch
from numpy.random import Generator, RandomState

from ple_keras._keras.internals import BOOKKEEPING

CONSTANTS = (bool, int, float, str, np.generic)  # compared by value, other values by identity
CONTAINERS: tuple[Any, ...] = (OrderedDict, dict, list, set)
# Graphs do not run PyTorch's hooks.
IGNORED = BOOKKEEPING.union(name for name in vars(torch.nn.Module()) if "hook" in name)
MAX_ITEMS = 1000  # of a container: a longer one is data
DATA: dict[Any, Any] = {  # with the functions that read and set its state
    torch.Tensor: (torch.clone, torch.Tensor.copy_),
    np.ndarray: (np.copy, np.copyto),
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    random.Random: (random.Random.getstate, random.Random.setstate),
    RandomState: (RandomState.get_state, RandomState.set_state),
    Generator: (lambda x: x.bit_generator.state, lambda x, s: setattr(x.bit_generator, "state", s)),
}
WITH_ATTRIBUTES = (keras.Variable, torch.nn.Module, SimpleNamespace)
LIBRARIES = {*sys.stdlib_module_names, "keras", "numpy", "ple_keras", "torch"}


class StepState:
    """The attributes of objects and the items of containers, at any depth, at one time.

    Args:
        roots: The objects in which the search begins.
        has_data: Whether tensors, arrays and states of generators belong to it, as for a trace.
    """

    def __init__(self, roots: Iterable[Any], has_data: bool = False) -> None:
        methods: tuple[Any, ...] = (random.getstate, np.random.get_state)
        generators = [torch.default_generator, *(method.__self__ for method in methods)]
        queue = [(thing, "") for thing in (*roots, *generators)]
        found: dict[int, tuple[Any, str, Any]] = {}
        for thing, owner in queue:  # which becomes longer
            if isinstance(thing, tuple):
                queue += [(value, owner) for value in thing]
            elif _has_attributes(thing):
                owner = getattr(thing, "name", type(thing).__name__)
                thing = vars(thing)
            if id(thing) in found:
                continue
            if isinstance(thing, CONTAINERS) and len(thing) <= MAX_ITEMS:
                items = _items(thing)
                found[id(thing)] = thing, owner, items
                queue += [(value, owner) for key, value in items.items() if key not in IGNORED]
            elif has_data and (functions := _functions(thing)):
                found[id(thing)] = thing, owner, functions[0](thing)
        self._found = [*found.values()]
        held = [each for each, _, _ in self._found if not _functions(each)]
        self._views = [each.values() if isinstance(each, dict) else each for each in held]
        self._values = [*chain.from_iterable(self._views)]

    def is_same(self) -> bool:
        """Return whether nothing has changed, by identity in most calls, since that is fast."""
        known, self._values = self._values, [*chain.from_iterable(self._views)]
        is_identical = len(known) == len(self._values) and all(map(is_, known, self._values))
        return is_identical or self.change() is None

    def change(self) -> str | None:
        """Return what has changed, and its owner."""
        for thing, owner, old in self._found:
            functions = _functions(thing)
            new = functions[0](thing) if functions else _items(thing)
            if functions and not all(map(is_equal, *map(keras.tree.flatten, (old, new)))):
                return f"the state of {owner or type(thing).__module__.partition('.')[0]!r}"
            for key in () if functions else {**old, **new}:
                was, value = old.get(key, self), new.get(key, self)
                is_kept = isinstance(was, CONSTANTS) and type(was) is type(value) and was == value
                if was is not value and not is_kept and key not in IGNORED:
                    return f"{key} of {owner!r}"
        return None

    def restore(self) -> None:
        """Restore everything that has changed."""
        for thing, _, old in self._found:
            if functions := _functions(thing):
                functions[1](thing, old)
                continue
            new = _items(thing)
            if [*new] != [*old] or not all(map(is_, new.values(), old.values())):
                kind = next(kind for kind in CONTAINERS if isinstance(thing, kind))
                kind.clear(thing)
                add = kind.extend if kind is list else kind.update
                add(thing, old if isinstance(thing, dict) else old.values())


def is_equal(one: Any, other: Any) -> bool:
    """Return whether data are equal; tensors and arrays to the bit, even if they are NaN."""
    if not isinstance(one, torch.Tensor):
        return bool(one == other if np.ndim(one) == 0 else one.tobytes() == other.tobytes())
    parts = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (one, other)]
    return one is other or torch.equal(*parts)


def _items(held: Any) -> dict[Any, Any]:
    """Return a copy of a container as a dict."""
    return dict(held) if isinstance(held, dict) else dict(enumerate(held))


def _functions(thing: Any) -> Any:
    """Return the functions that read and set a state of DATA; None for other objects."""
    is_weight = isinstance(thing, torch.nn.Parameter)
    return next((f for kind, f in DATA.items() if isinstance(thing, kind) and not is_weight), None)


def _has_attributes(thing: Any) -> bool:
    """Return whether a step can read attributes of an object: of a Keras object, or a user's."""
    is_users = type(thing).__module__.partition(".")[0] not in LIBRARIES
    is_known = isinstance(thing, WITH_ATTRIBUTES) or hasattr(thing, "get_config") or is_users
    return is_known and hasattr(thing, "__dict__") and not isinstance(thing, type)
