"""Observation of the levels of a running model."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

import keras

from ple_keras._typing import ByName, Streams


class Observer:
    """Object with callbacks for every level that runs within `observed_by`.

    Gates do not update their statistics while observed.
    """

    def on_inputs(self, block: keras.Layer, inputs: Streams) -> Streams:
        """Receive the inputs of a level and return the inputs that it uses instead."""
        return inputs

    def on_outputs(self, block: keras.Layer, weights: ByName, outputs: ByName) -> None:
        """Receive the weights of a level's gates and the outputs of its experts, by name."""


_thread = local()  # torch.compile supports it, unlike a ContextVar
_NO_OBSERVER = Observer()


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Observe every level that runs, or is traced, in this thread."""
    previous = getattr(_thread, "observer", None)
    _thread.observer = observer
    try:
        yield
    finally:
        _thread.observer = previous


def observer() -> Observer:
    """Return the observer of this thread, or one that does nothing if there is none."""
    return getattr(_thread, "observer", None) or _NO_OBSERVER


def is_observed() -> bool:
    """Return whether this thread has an observer."""
    return getattr(_thread, "observer", None) is not None
