"""A level of few examples computed in few operations, for PyTorch.

Eager PyTorch pays 10 us and more for an operation before it computes anything, and again for its
gradient. With E experts and K gates, one after the other, that is most of a step of some hundred
examples: here all experts share one batched product for each of their Dense layers, and all gates
of tasks one softmax. An exported model runs so too, for any batch: what is served is mostly small.

    streams   (K + 1, B, D)       experts   (E, B, H)      weights   (K, n, B), and (E, B) shared
"""

from collections.abc import Mapping
from functools import reduce
from operator import add, mul
from typing import Any

import keras
from keras import ops

from ple_keras._checks import SHARED
from ple_keras._keras.internals import mask_of
from ple_keras._typing import ByStream, Tensor
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.gate_statistics import are_counted, count_gates
from ple_keras.layers._level.observer import is_observed
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.gate import Gate

# Above either of them PyTorch's batched product can be slower than one product after the other.
MOST_ROWS = 512
MOST_MULTIPLY_ADDS = 2**24  # of an expert's widest Dense layer


class BatchedLevel:
    """Computes the experts and gates of a level together.

    Args:
        wiring: Who reads what.
        bank: The level's experts, built.
        gates: The level's gates, built, by name.
    """

    def __init__(self, wiring: LevelWiring, bank: ExpertBank, gates: Mapping[str, Gate]) -> None:
        self._experts = wiring.experts
        self._tasks = wiring.tasks
        self._bank = bank
        self._gates = gates
        self._experts_per_task, *other_counts = set(wiring.task_experts.values())
        self._num_own = len(wiring.tasks) * self._experts_per_task
        self._is_regular = (
            keras.backend.backend() == "torch"
            and not other_counts
            and bank.is_batchable
            and all(gate.is_plain for gate in gates.values())
            and {gate.compute_dtype for gate in gates.values()} == {bank.compute_dtype}
            and len({gates[task].kernel.shape for task in wiring.tasks}) == 1
        )

    def supports(self, streams: ByStream) -> bool:
        """Whether these inputs are few enough, and experts and gates plain enough."""
        if not self._is_regular or self._is_quantized() or is_observed() or _is_compiled():
            return False
        shape = next(iter(streams.values())).shape
        rows = shape[0] if type(shape[0]) is int else MOST_ROWS  # exports don't know them
        return (
            len(shape) == 2
            and 0 < rows <= min(MOST_ROWS, MOST_MULTIPLY_ADDS // self._bank.widest_product)
            and all(mask_of(stream) is None for stream in streams.values())
        )

    def _is_quantized(self) -> bool:
        gates = self._gates.values()
        return self._bank.is_quantized or any(gate.is_quantized for gate in gates)

    def experts(self, streams: ByStream, training: bool | None) -> Any:
        """The outputs of all experts, `(E, B, H)`."""
        first, *others = streams.values()
        if all(stream is first for stream in others):
            return self._bank.call_batched(first, training)
        features = ops.stack([streams[stream] for stream in self._experts.values()])
        return self._bank.call_batched(features, training)

    def weights(self, streams: ByStream, training: bool | None) -> dict[str, Tensor]:
        """The weights of the tasks' gates, `"tasks"`: `(K, n, B)`, and `"shared"`: `(E, B)`."""
        first, *others = (streams[task] for task in self._tasks)
        is_one = all(stream is first for stream in others)
        features = first if is_one else ops.stack([first, *others])
        weights = {"tasks": self._weights_of(self._tasks, features, training)}
        if SHARED in self._gates:
            weights[SHARED] = self._weights_of([SHARED], streams[SHARED], training)[0]
        return weights

    def mix(self, weights: ByStream, experts: Any) -> dict[str, Tensor]:
        """sum_e w_e E_e for every gate, `{gate: (B, H)}`."""
        mixed = self._mix_for_tasks(weights["tasks"], experts)
        outputs = dict(zip(self._tasks, _split_tasks(mixed)))
        if SHARED in weights:
            outputs[SHARED] = ops.sum(ops.expand_dims(weights[SHARED], -1) * experts, axis=0)
        return outputs

    def _weights_of(self, names: list[str], features: Tensor, training: bool | None) -> Tensor:
        """The weights of gates, `(gates, n, B)`, of features `(gates, B, D)` or `(B, D)`.

        Along that middle axis PyTorch's softmax is many times as fast as along a short last one.
        """
        gates = [self._gates[name] for name in names]
        kernels = ops.swapaxes(ops.stack([gate.kernel for gate in gates]), 1, 2)
        logits = ops.matmul(kernels, ops.swapaxes(features, -1, -2))
        weights = gates[0].normalize(logits, axis=1)
        if gates[0].track_weights and are_counted(training):
            count_gates([gate._statistics for gate in gates], weights)
        return ops.cast(weights, gates[0].compute_dtype)

    def _mix_for_tasks(self, weights: Tensor, experts: Any) -> Tensor:
        """The experts mixed for the tasks, `(K, B, H)`: their own first, then the shared ones."""
        count = self._experts_per_task
        own = [experts[i : self._num_own : count] for i in range(count)]
        shared = [experts[i : i + 1] for i in range(self._num_own, len(self._experts))]
        columns = [weights[:, i, :, None] for i in range(count + len(shared))]
        return reduce(add, map(mul, columns, own + shared))


def _is_compiled() -> bool:
    """Whether torch.compile reads along: operations cost nothing then, and no size is known."""
    import torch

    return bool(torch.compiler.is_dynamo_compiling())


def _split_tasks(mixed: Tensor) -> list[Tensor]:
    """`(K, ...)` to K times `(...)`, which operations in place may follow: no views of one base."""
    import torch

    return [part.squeeze(0) for part in torch.unsafe_split(mixed, 1)]
