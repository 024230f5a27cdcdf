"""A container whose value Keras does not track."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Untracked(Generic[T]):
    """Container of a value that Keras must neither wrap nor track.

    A tracked layer that is never built would slow down every step.
    """

    def __init__(self, value: T) -> None:
        self.value = value
