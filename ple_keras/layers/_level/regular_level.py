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
            and all(gate.is_plain_in_inference for gate in gates.values())
            and {gate.compute_dtype for gate in gates.values()} == {bank.compute_dtype}
            and len({gates[task].kernel.shape for task in wiring.tasks}) == 1
        )
        self._has_plain_gates = all(gate.is_plain for gate in gates.values())

    def is_batched(self, streams: ByName) -> bool:
        """Return whether `BatchedCall` supports these inputs, and is faster."""
        if not (self._has_plain_gates and self._supports(streams)):
            return False
        if _is_compiled() or _is_onnx_export():
            return False
        size = next(iter(streams.values())).shape[0]
        rows = size if type(size) is int else MAX_ROWS  # unknown in exports
        return 0 < rows <= min(MAX_ROWS, MAX_MULTIPLY_ADDS // self.bank.max_multiply_adds)

    def is_convolved(self, streams: ByName) -> bool:
        """Return whether `ConvolutionCall` supports these inputs, and an ONNX file is written."""
        return (
            self._is_regular
            and _is_onnx_export()  # asked first, since it is False in training
            and self._supports(streams)
            and self.bank.is_elementwise
            and self.bank.compute_dtype != "float64"  # ONNX Runtime has no such convolution
        )

    def _supports(self, streams: ByName) -> bool:
        if not self._is_regular or self._is_quantized() or is_observed():
            return False
        return all(len(x.shape) == 2 and mask_of(x) is None for x in streams.values())

    def _is_quantized(self) -> bool:
        gates = self.gates.values()
        return self.bank.is_quantized or any(gate.is_quantized for gate in gates)


def _is_compiled() -> bool:
    """Return whether torch.compile runs. Operations are then cheap, and sizes unknown."""
    import torch

    return bool(torch.compiler.is_dynamo_compiling())


def _is_onnx_export() -> bool:
    """Return whether this thread writes an ONNX file. Others may train the model meanwhile."""
    import torch

    is_traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return bool(is_traced and torch.onnx.is_in_onnx_export())
