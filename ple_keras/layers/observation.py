"""Observation of the levels of a running model."""

from collections.abc import Callable, Mapping
from threading import local
from typing import Any, Self

import keras

from ple_keras._typing import ByName, Streams

_thread = local()  # torch.compile supports it, unlike a ContextVar


class Observer:
    """A function that every level calls that runs, or is traced, in this thread within `with`.

    Gates do not update their statistics while observed.

    Args:
        names: The name of each level, by the `id` of its block.
        receive: Takes the name and the inputs of a level, the weights of its gates, and the outputs
            of its experts, both by name.

    Attributes:
        repeated: The levels that ran more than once.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        receive: Callable[[str, Streams, ByName, ByName], None] = lambda *computed: None,
    ) -> None:
        self.repeated: set[str] = set()
        self._names, self._ran, self._receive = names, set[str](), receive

    def __enter__(self) -> Self:
        self._outer = active_observer()
        _thread.observer = self
        return self

    def __exit__(self, *error: Any) -> None:
        _thread.observer = self._outer

    def on_outputs(
        self, block: keras.Layer, inputs: Streams, weights: ByName, experts: ByName
    ) -> None:
        """Count a run of a level, and receive what it has computed."""
        level = self._names[id(block)]
        (self.repeated if level in self._ran else self._ran).add(level)
        self._receive(level, inputs, weights, experts)


def active_observer() -> Observer | None:
    """Return the observer of this thread, if there is one."""
    return getattr(_thread, "observer", None)
