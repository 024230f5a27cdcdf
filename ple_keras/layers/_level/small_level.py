"""A level of few examples in few operations, for PyTorch.

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
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.gate_statistics import tracked
from ple_keras.layers._level.observer import is_watched
from ple_keras.layers._level.wiring import Wiring
from ple_keras.layers.gate import Gate

# Above either of them PyTorch's batched product can be slower than one product after the other.
MOST_ROWS = 512
MOST_MULTIPLY_ADDS = 2**24  # of an expert's widest Dense layer


class SmallLevel:
    """The experts and gates of a level, run together.

    Args:
        wiring: Who reads what.
        bank: The level's experts, built.
        gates: The level's gates, built, by name.
    """

    def __init__(self, wiring: Wiring, bank: ExpertBank, gates: Mapping[str, Gate]) -> None:
        self._experts = wiring.experts
        self._tasks = wiring.tasks
        self._bank = bank
        self._gates = gates
        self._each, *other_counts = set(wiring.task_experts.values())  # experts of a task
        self._num_own = len(wiring.tasks) * self._each
        self._is_regular = (
            keras.backend.backend() == "torch"
            and not other_counts
            and bank.can_run_as_one
            and all(gate.is_plain for gate in gates.values())
            and {gate.compute_dtype for gate in gates.values()} == {bank.compute_dtype}
            and len({gates[task].kernel.shape for task in wiring.tasks}) == 1
        )

    def takes(self, streams: Mapping[str, Any]) -> bool:
        """Whether these inputs are few enough, and experts and gates plain enough."""
        if not self._is_regular or self._is_quantized() or is_watched() or _is_compiled():
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

    def __call__(self, streams: Mapping[str, Any], training: bool | None) -> dict[str, Any]:
        """What every gate makes of the experts, `{gate: (B, H)}`."""
        features = self._features(streams)
        experts = self._bank.run_as_one(features, training)
        weights = self._weights(self._tasks, self._task_features(streams, features), training)
        mixed = self._mix_for_tasks(weights, experts)
        outputs = dict(zip(self._tasks, _apart(mixed)))
        if SHARED in self._gates:
            weights = self._weights([SHARED], streams[SHARED], training)[0]
            outputs[SHARED] = ops.sum(ops.expand_dims(weights, -1) * experts, axis=0)
        return outputs

    def _features(self, streams: Mapping[str, Any]) -> Any:
        """What each expert reads, `(E, B, D)`, or `(B, D)` where it is one for all."""
        first, *others = streams.values()
        if all(stream is first for stream in others):
            return first
        return ops.stack([streams[stream] for stream in self._experts.values()])

    def _task_features(self, streams: Mapping[str, Any], features: Any) -> Any:
        """What each task's gate reads, `(K, B, D)`, or `(B, D)`."""
        if len(features.shape) == 2:
            return features
        if self._each:
            return features[: self._num_own : self._each]
        return ops.stack([streams[task] for task in self._tasks])

    def _weights(self, names: list[str], features: Any, training: bool | None) -> Any:
        """The weights of gates over n experts each, `(gates, n, B)`.

        Along that middle axis PyTorch's softmax is many times as fast as along a short last one.
        """
        gates = [self._gates[name] for name in names]
        kernels = ops.swapaxes(ops.stack([gate.kernel for gate in gates]), 1, 2)
        logits = gates[0].soften(ops.matmul(kernels, ops.swapaxes(features, -1, -2)))
        weights = ops.softmax(logits, axis=1)
        if training is not None and gates[0].track_weights:
            totals = ops.sum(tracked(ops.stop_gradient(weights), axis=1), axis=-1)
            for gate, total in zip(gates, ops.unstack(totals, len(gates))):
                gate.add_to_statistics(total)
        return ops.cast(weights, gates[0].compute_dtype)

    def _mix_for_tasks(self, weights: Any, experts: Any) -> Any:
        """What the tasks' gates make of the experts, `(K, B, H)`: own ones first, then shared."""
        own = [experts[i : self._num_own : self._each] for i in range(self._each)]
        shared = [experts[i : i + 1] for i in range(self._num_own, len(self._experts))]
        columns = [weights[:, i, :, None] for i in range(self._each + len(shared))]
        return reduce(add, map(mul, columns, own + shared))


def _is_compiled() -> bool:
    """Whether torch.compile reads along: operations cost nothing then, and no size is known."""
    import torch

    return bool(torch.compiler.is_dynamo_compiling())


def _apart(mixed: Any) -> list[Any]:
    """`(K, ...)` to K times `(...)`, which operations in place may follow: no views of one base."""
    import torch

    return [part.squeeze(0) for part in torch.unsafe_split(mixed, 1)]
