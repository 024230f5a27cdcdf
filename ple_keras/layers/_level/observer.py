"""Observing the levels of a model while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

import keras

from ple_keras._typing import ByStream, Streams


class Observer:
    """Is told of every level that runs within `observed_by`.

    Gates keep no statistics meanwhile.
    """

    def on_inputs(self, block: keras.Layer, inputs: Streams) -> Streams:
        """Take a level's inputs; return what the level reads in their place."""
        return inputs

    def on_outputs(self, block: keras.Layer, weights: ByStream, outputs: ByStream) -> None:
        """Take the weights of a level's gates and the outputs of its experts, by name."""


_here = local()  # torch.compile follows it, not so a ContextVar
_NOBODY = Observer()


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Tell the observer of every level that runs, or is traced, in this thread."""
    before = getattr(_here, "observer", None)
    _here.observer = observer
    try:
        yield
    finally:
        _here.observer = before


def observer() -> Observer:
    """Return the observer of this thread; without one, an observer that does nothing."""
    return getattr(_here, "observer", None) or _NOBODY


def is_observed() -> bool:
    """Return whether this thread has an observer."""
    return getattr(_here, "observer", None) is not None
