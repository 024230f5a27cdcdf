"""Watching the levels of a model while it runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any


class Observer:
    """What every level that runs within `watched_by` tells what it does.

    Gates keep no statistics meanwhile.
    """

    def read(self, block: Any, inputs: Any) -> Any:
        """Hear of a level's inputs; returns what the level reads in their place."""
        return inputs

    def ran(self, block: Any, weights: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Hear of the weights of a level's gates and the outputs of its experts, by name."""


_here = local()  # torch.compile follows it, not so a ContextVar
_NOBODY = Observer()


@contextmanager
def watched_by(observer: Observer) -> Iterator[None]:
    """Let the observer hear of every level that runs, or is traced, in this thread."""
    before = getattr(_here, "observer", None)
    _here.observer = observer
    try:
        yield
    finally:
        _here.observer = before


def observer() -> Observer:
    """Who is to be told."""
    return getattr(_here, "observer", None) or _NOBODY


def is_watched() -> bool:
    return getattr(_here, "observer", None) is not None
