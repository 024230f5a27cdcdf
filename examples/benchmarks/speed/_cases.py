"""Sizes of the measured cases and their numbers of multiply-adds.

This module does not import Keras: scripts parse their arguments before Keras selects a backend.
"""

import math
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Case:
    """Sizes of a PLE and of its batch.

    Attributes:
        tasks: K, the number of tasks.
        experts: The units of each Dense layer of an expert.
        levels: N, the number of levels.
        features: D, the width of the input.
        batch: B. With 1, the case measures serving: nothing is trained.
        task_experts: The number of experts of each task in each level.
        shared_experts: The number of shared experts in each level.
    """

    tasks: int
    experts: tuple[int, ...]
    levels: int
    features: int
    batch: int
    task_experts: int = 2
    shared_experts: int = 2

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks."""
        return [f"task_{i}" for i in range(self.tasks)]

    @property
    def level_experts(self) -> int:
        """Number of experts of a level, E."""
        return self.tasks * self.task_experts + self.shared_experts

    @property
    def trains(self) -> bool:
        """Whether training steps are measured."""
        return self.batch > 1

    @property
    def expert_multiply_adds(self) -> int:
        """Multiply-adds of all experts for one example, without gates and towers."""
        return sum(self._level_multiply_adds(level) for level in range(self.levels))

    @property
    def floor_widths(self) -> list[int]:
        """Units of the floor: a plain chain of Dense layers, two for each level.

        A level of E experts with input width D and widths h_1, ..., h_n needs E (D h_1 + h_1 h_2 +
        ... + h_{n-1} h_n) multiply-adds. It is replaced by two Dense layers, D to W and W to h_n. W
        is chosen so that W (D + h_n) equals that number. For experts of two layers, W is E h_1.
        """
        last = self.experts[-1]
        widths = []
        for level in range(self.levels):
            wide = self._level_multiply_adds(level) / (self._level_input(level) + last)
            widths += [max(1, round(wide)), last]
        return widths

    @property
    def floor_multiply_adds(self) -> int:
        """Multiply-adds of the floor's chain for one example, without the towers."""
        return _chain_multiply_adds(self.features, self.floor_widths)

    def _level_multiply_adds(self, level: int) -> int:
        one = _chain_multiply_adds(self._level_input(level), self.experts)
        return self.level_experts * one

    def _level_input(self, level: int) -> int:
        return self.experts[-1] if level else self.features

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.task_experts} experts a task + {self.shared_experts} "
            f"shared, {list(self.experts)}, {self.levels} levels, {self.features} features, "
            f"batch {self.batch}"
        )


def _chain_multiply_adds(features: int, units: list[int] | tuple[int, ...]) -> int:
    """Return the multiply-adds of consecutive Dense layers for one example."""
    widths = [features, *units]
    return sum(math.prod(pair) for pair in pairwise(widths))


CASES = {
    "A": Case(3, (256, 128), 2, 128, 4096),
    "B": Case(8, (64, 32), 3, 32, 512),
    "C": Case(8, (64, 32), 3, 32, 1),
    "D": Case(8, (64, 32), 3, 32, 512, task_experts=1, shared_experts=1),
}
