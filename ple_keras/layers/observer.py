"""Observer of the gates and branches that run in a thread."""

from collections.abc import Mapping
from threading import local
from typing import Self

import keras

from ple_keras._typing import ByName, Tensor

_thread = local()  # torch.compile supports it, unlike a ContextVar


class Observer:
    """Gate weights and branch values of the layers that run or are traced in this thread.

    Gates do not update their statistics inside its `with` statement.

    Args:
        names: The name of each observed level, by the `id` of its block. A level inside an expert
            of another one has no name.

    Attributes:
        levels: The gate weights of each level that ran.
        branches: The values of the branches of each hedged task, both keyed by name.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.levels: dict[str, ByName] = {}
        self.branches: dict[str, dict[str, Tensor]] = {}
        self._names = names

    def __enter__(self) -> Self:
        self._outer = active_observer()
        _thread.observer = self
        return self

    def __exit__(self, *error: object) -> None:
        _thread.observer = self._outer

    def receive(self, block: keras.Layer, weights: ByName) -> None:
        """Store the gate weights of the first run of a level with a name."""
        level = self._names.get(id(block))
        if level is not None:
            self.levels.setdefault(level, weights)


def active_observer() -> Observer | None:
    """Return the observer of this thread, if there is one."""
    return getattr(_thread, "observer", None)
