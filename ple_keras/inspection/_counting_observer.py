"""An observer that knows the levels of a model."""

from collections.abc import Mapping

import keras

from ple_keras.layers._level.observer import Observer


class CountingObserver(Observer):
    """Counts the runs of each level.

    Args:
        names: The name of each level, by the `id` of its block.

    Attributes:
        repeated: The levels that ran more than once.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.repeated: set[str] = set()
        self._names = names
        self._met: set[str] = set()

    def meet(self, block: keras.Layer) -> tuple[str, bool]:
        """Return the name of a level that runs, and whether this is its first run."""
        level = self._names[id(block)]
        is_first = level not in self._met
        if not is_first:
            self.repeated.add(level)
        self._met.add(level)
        return level, is_first
