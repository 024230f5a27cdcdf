"""An observer that counts the runs of each level."""

from collections.abc import Mapping

import keras

from ple_keras.layers._level.observer import Observer


class CountingObserver(Observer):
    """Observer that finds the levels that run more than once.

    Args:
        names: The name of each level, by the `id` of its block.

    Attributes:
        repeated: The levels that ran more than once.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.repeated: set[str] = set()
        self._names = names
        self._ran: set[str] = set()

    def count_run(self, block: keras.Layer) -> tuple[str, bool]:
        """Count a run of a level; return the level's name and whether the run is its first."""
        level = self._names[id(block)]
        is_first = level not in self._ran
        if not is_first:
            self.repeated.add(level)
        self._ran.add(level)
        return level, is_first
