"""Levels whose experts and gates can be computed in few operations on PyTorch."""

from collections.abc import Mapping

import keras

from ple_keras._keras.internals import mask_of
from ple_keras._typing import ByName
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.observer import is_observed
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.gate import Gate

# Above either limit, PyTorch's batched product can be slower than separate products.
MAX_ROWS = 512
MAX_MULTIPLY_ADDS = 2**24  # of an expert's largest Dense layer


class RegularLevel:
    """A level, and whether all its experts, and the gates of all tasks, have the same shape.

    Args:
        wiring: The level's streams, experts and gates.
        bank: The level's experts, built.
        gates: The level's gates, built, by name.
    """

    def __init__(self, wiring: LevelWiring, bank: ExpertBank, gates: Mapping[str, Gate]) -> None:
        self.experts = wiring.experts
        self.tasks = wiring.tasks
        self.bank = bank
        self.gates = gates
        self.experts_per_task, *other_counts = set(wiring.task_experts.values())
        self.num_own = len(wiring.tasks) * self.experts_per_task
        self.is_isolated = wiring.is_isolated
        self._is_regular = (
            keras.backend.backend() == "torch"
            and not other_counts
            and bank.is_batchable
            and all(gate.is_plain for gate in gates.values())
            and {gate.compute_dtype for gate in gates.values()} == {bank.compute_dtype}
            and len({gates[task].kernel.shape for task in wiring.tasks}) == 1
        )

    def is_batched(self, streams: ByName) -> bool:
        """Return whether `BatchedCall` supports these inputs, and is faster."""
        if not self._is_regular or _is_traced() or self._is_quantized() or is_observed():
            return False
        if any(len(x.shape) != 2 or mask_of(x) is not None for x in streams.values()):
            return False
        rows = next(iter(streams.values())).shape[0]
        return 0 < rows <= min(MAX_ROWS, MAX_MULTIPLY_ADDS // self.bank.max_multiply_adds)

    def _is_quantized(self) -> bool:
        gates = self.gates.values()
        return self.bank.is_quantized or any(gate.is_quantized for gate in gates)


def _is_traced() -> bool:
    """Return whether PyTorch compiles or exports. Operations are then cheap, and sizes unknown."""
    import torch

    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())
