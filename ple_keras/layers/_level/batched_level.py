"""Computation of a level in few operations, for small batches on PyTorch.

Eager PyTorch has an overhead of at least 10 us per operation, and again for its gradient. With E
experts and K gates, computed one by one, this dominates a step of a few hundred examples. Here, all
experts use one batched product per Dense layer, and the gates of all tasks use one softmax.
`torch.export` uses it for every batch size, since most served batches are small.

    streams   (K + 1, B, D)       experts   (E, B, H)      weights   (K, n, B), and (E, B) shared
"""

from functools import reduce
from operator import add, mul

from keras import ops

from ple_keras._checks import SHARED
from ple_keras._typing import ByName, Tensor
from ple_keras.layers._level.gate_statistics import are_statistics_updated, update_gate_statistics
from ple_keras.layers._level.regular_level import RegularLevel


class BatchedCall:
    """Batched computation of a level, for one call.

    Args:
        level: The level.
        streams: The inputs of the level, by stream. They are stacked once, for experts and gates.
        gate_inputs: The inputs of the gates, by gate: `streams`, or with a context.
    """

    def __init__(self, level: RegularLevel, streams: ByName, gate_inputs: ByName) -> None:
        self._level, self._streams, self._gate_inputs = level, streams, gate_inputs
        first, *others = streams.values()
        self._is_one_input = all(stream is first for stream in others)
        self._features = first
        if not self._is_one_input:
            self._features = ops.stack([streams[stream] for stream in level.experts.values()])

    def experts(self, training: bool | None) -> Tensor:
        """Return the outputs of all experts, `(E, B, H)`."""
        return self._level.bank.call_batched(self._features, training)

    def weights(self, training: bool | None) -> dict[str, Tensor]:
        """Return the gate weights: `"tasks"`, `(K, n, B)`, and `"shared"`, `(E, B)`."""
        tasks = self._level.tasks
        weights = {"tasks": self._gate_weights(tasks, self._task_features(), training)}
        if SHARED in self._level.gates:
            weights[SHARED] = self._gate_weights([SHARED], self._gate_inputs[SHARED], training)[0]
        return weights

    def weights_by_gate(self, weights: ByName) -> dict[str, Tensor]:
        """Return the result of `weights` as `{gate: (B, experts)}`."""
        of_tasks = _split_tasks(ops.swapaxes(weights["tasks"], 1, 2))
        by_gate = dict(zip(self._level.tasks, of_tasks))
        if SHARED in weights:
            by_gate[SHARED] = ops.transpose(weights[SHARED])
        return by_gate

    def _task_features(self) -> Tensor:
        """Return the inputs of the tasks' gates, `(K, B, D)`, or a common `(B, D)`."""
        level = self._level
        if self._gate_inputs is not self._streams:
            first, *others = [self._gate_inputs[task] for task in level.tasks]
            is_common = all(features is first for features in others)
            return first if is_common else ops.stack([first, *others])
        if self._is_one_input:
            return self._features
        if level.experts_per_task:
            return self._features[: level.num_own : level.experts_per_task]
        return ops.stack([self._streams[task] for task in level.tasks])

    def mix(self, weights: ByName, experts: Tensor) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (B, H)}`."""
        mixed = self._mix_for_tasks(weights["tasks"], experts)
        outputs = dict(zip(self._level.tasks, _split_tasks(mixed)))
        if SHARED in weights:
            if self._level.is_isolated:
                own, shared = ops.split(experts, [self._level.num_own], axis=0)
                experts = ops.concatenate([ops.stop_gradient(own), shared], axis=0)
            outputs[SHARED] = ops.sum(ops.expand_dims(weights[SHARED], -1) * experts, axis=0)
        return outputs

    def _gate_weights(self, names: list[str], features: Tensor, training: bool | None) -> Tensor:
        """Return the weights of gates, `(gates, n, B)`, for features `(gates, B, D)` or `(B, D)`.

        PyTorch's softmax over this middle axis is much faster than over a short last axis.
        """
        gates = [self._level.gates[name] for name in names]
        kernels = ops.swapaxes(ops.stack([gate.kernel for gate in gates]), 1, 2)
        logits = ops.matmul(kernels, ops.swapaxes(features, -1, -2))
        weights = gates[0]._normalize(logits, axis=1)
        if gates[0].track_weights and are_statistics_updated(training):
            update_gate_statistics([gate._statistics for gate in gates], weights)
        return ops.cast(weights, gates[0].compute_dtype)

    def _mix_for_tasks(self, weights: Tensor, experts: Tensor) -> Tensor:
        """Return the mixed experts of all tasks, `(K, B, H)`: own experts, then shared ones."""
        count, num_own = self._level.experts_per_task, self._level.num_own
        own = [experts[i:num_own:count] for i in range(count)]
        shared = [experts[i : i + 1] for i in range(num_own, len(self._level.experts))]
        columns = [weights[:, i, :, None] for i in range(count + len(shared))]
        return reduce(add, map(mul, columns, own + shared))


def _split_tasks(mixed: Tensor) -> list[Tensor]:
    """Split `(K, ...)` into K tensors `(...)` that allow in-place operations, unlike views."""
    import torch

    return [part.squeeze(0) for part in torch.unsafe_split(mixed, 1)]
