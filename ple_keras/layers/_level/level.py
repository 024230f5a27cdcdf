"""A built level, and its two computations: one expert after the other, or batched.

The batched one is for small batches on eager PyTorch, which has an overhead of at least 10 us for
each operation, and again for its gradient. With E experts and K gates, computed one by one, this
dominates a step of a few hundred examples. Batched, all experts use one product per Dense layer,
and the gates of all tasks use one softmax.
"""

from collections.abc import Mapping
from functools import reduce
from operator import add, mul
from typing import Any, Protocol

import keras
from keras import ops

from ple_keras._checks import check_width, short_repr
from ple_keras._keras.internals import mask_of
from ple_keras._typing import ByName, Shape, Streams, Tensor
from ple_keras.labels.task_names import SHARED
from ple_keras.layers._level.experts import ExpertBank
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.gate import Gate, are_statistics_updated, update_statistics
from ple_keras.layers.observation import active_observer

# Above either limit, PyTorch's batched product can be slower than separate products.
MAX_ROWS = 512
MAX_MULTIPLY_ADDS = 2**24  # of an expert's largest Dense layer


class Computation(Protocol):
    """Computation of a level for one call. Its methods are called in this order."""

    def experts(self, training: bool | None) -> Any:
        """Return the outputs of all experts."""

    def weights(self, training: bool | None) -> dict[str, Tensor]:
        """Return the weights of all gates."""

    def mix(self, weights: ByName, experts: Any) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (..., H)}`."""

    def weights_by_gate(self, weights: ByName) -> dict[str, Tensor]:
        """Return the result of `weights` as `{gate: (..., experts)}`."""


class Level:
    """The experts and gates of a built CGCBlock.

    Args:
        wiring: The level's streams, experts and gates.
        shapes: The shape of each stream.
        bank: The experts, built.
        gates: The gates, built, by name.
        dtype: The dtype of the outputs.

    Attributes:
        wiring, bank, gates, dtype: As given.
    """

    def __init__(
        self,
        wiring: LevelWiring,
        shapes: Mapping[str, Shape],
        bank: ExpertBank,
        gates: Mapping[str, Gate],
        dtype: str,
    ) -> None:
        self.wiring, self.bank, self.gates, self.dtype = wiring, bank, gates, dtype
        self._widths = {stream: shape[-1] for stream, shape in shapes.items()}
        is_batchable = keras.backend.backend() == "torch" and self._has_equal_parts()
        rows = bank.max_batched_rows(MAX_MULTIPLY_ADDS) if is_batchable else 0
        self._max_batched_rows = min(MAX_ROWS, rows)

    def streams(self, inputs: Streams) -> dict[str, Tensor]:
        """Return the tensor of each stream after checking its width.

        Raises:
            ValueError: If the inputs do not match the level.
        """
        if isinstance(inputs, list | tuple):
            raise ValueError(
                "inputs must be one tensor or a dict by stream. "
                f"Received: inputs={short_repr(inputs)}"
            )
        streams = self.wiring.by_stream(inputs)
        self.check_widths({stream: tensor.shape for stream, tensor in streams.items()})
        return streams

    def check_widths(self, shapes: Mapping[str, Shape]) -> None:
        """Check that the streams have the widths that the block was built for."""
        for stream, width in self._widths.items():
            check_width(shapes[stream], width, f"inputs[{stream!r}]")

    def computation(self, streams: ByName, gate_inputs: ByName) -> Computation:
        """Return the computation of the level on these inputs. No other code chooses it.

        Args:
            streams: The result of `streams`.
            gate_inputs: The input of each gate.
        """
        is_batched = self._max_batched_rows and self._is_batched(streams)
        return (BatchedComputation if is_batched else UnbatchedComputation)(
            self, streams, gate_inputs
        )

    def _has_equal_parts(self) -> bool:
        """Return whether the tasks have equally many experts, and plain gates of one shape."""
        tasks, gates = self.wiring.tasks, self.gates.values()
        return (
            len(set(self.wiring.task_experts.values())) == 1
            and all(gate.is_plain for gate in gates)
            and {gate.compute_dtype for gate in gates} == {self.bank.compute_dtype}
            and len({self.gates[task].kernel.shape for task in tasks}) == 1
        )

    def _is_batched(self, streams: ByName) -> bool:
        """Return whether the batched computation supports these inputs, and is faster."""
        import torch

        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False  # operations are cheap then, and sizes unknown
        if active_observer() or any(gate.is_quantized for gate in self.gates.values()):
            return False
        if any(len(x.shape) != 2 or mask_of(x) is not None for x in streams.values()):
            return False
        rows: int = next(iter(streams.values())).shape[0]
        return 0 < rows <= self._max_batched_rows


class UnbatchedComputation:
    """Computation of a level with any experts, gates and inputs, for one call.

    Args:
        level: The level.
        streams: The inputs of the level, by stream.
        gate_inputs: The inputs of the gates, by gate.
    """

    def __init__(self, level: Level, streams: ByName, gate_inputs: ByName) -> None:
        self._level, self._streams, self._gate_inputs = level, streams, gate_inputs

    def experts(self, training: bool | None) -> dict[str, Tensor]:
        """Return the output of every expert, `{expert: (..., H)}`."""
        outputs: dict[str, Tensor] = self._level.bank(self._streams, training=training)
        return outputs

    def weights(self, training: bool | None) -> dict[str, Tensor]:
        """Return the weights of every gate, `{gate: (..., experts)}`."""
        gates = self._level.gates.items()
        return {name: _run_gate(gate, self._gate_inputs[name], training) for name, gate in gates}

    def mix(self, weights: ByName, experts: ByName) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (..., H)}`."""
        wiring, outputs = self._level.wiring, {}
        for gate, names in wiring.gates.items():
            stopped = wiring.stopped[gate]
            mixed = [ops.stop_gradient(experts[e]) if e in stopped else experts[e] for e in names]
            outputs[gate] = self._weighted_sum(weights[gate], mixed)
        return outputs

    def _weighted_sum(self, weights: Tensor, experts: list[Tensor]) -> Tensor:
        """Return sum_e w_e E_e as a running sum, without a tensor `(..., E, H)`."""
        columns = ops.split(weights, len(experts), axis=-1)
        return reduce(add, (w * ops.cast(x, self._level.dtype) for w, x in zip(columns, experts)))

    def weights_by_gate(self, weights: ByName) -> dict[str, Tensor]:
        """Return the result of `weights` as `{gate: (..., experts)}`."""
        return dict(weights)


def _run_gate(gate: Gate, features: Tensor, training: bool | None) -> Tensor:
    """Return the weights of a gate, from features in the dtype of its block.

    `keras.Layer.__call__` takes half the time of a gate on eager PyTorch. It passes on masks.
    """
    if mask_of(features) is not None:
        return gate(features, training=training)
    return gate.call(features, training)


class BatchedComputation:
    """Computation of a level in few operations, for one call on eager PyTorch.

        streams   (K + 1, B, D)     experts   (E, B, H)    weights   (K, n, B), and (E, B) shared

    Args:
        level: The level.
        streams: The inputs of the level, by stream. They are stacked once, for experts and gates.
        gate_inputs: The inputs of the gates, by gate: `streams`, or with a context.
    """

    def __init__(self, level: Level, streams: ByName, gate_inputs: ByName) -> None:
        self._level, self._wiring = level, level.wiring
        self._streams, self._gate_inputs = streams, gate_inputs
        self._experts_per_task = next(iter(self._wiring.task_experts.values()))
        self._num_task_experts = len(self._wiring.tasks) * self._experts_per_task
        first, *others = streams.values()
        self._is_one_input = all(stream is first for stream in others)
        self._features = first
        if not self._is_one_input:
            self._features = ops.stack(
                [streams[stream] for stream in self._wiring.experts.values()]
            )

    def experts(self, training: bool | None) -> Tensor:
        """Return the outputs of all experts, `(E, B, H)`."""
        return self._level.bank.call_batched(self._features, training)

    def weights(self, training: bool | None) -> dict[str, Tensor]:
        """Return the gate weights: `"tasks"`, `(K, n, B)`, and `"shared"`, `(E, B)`."""
        tasks = self._wiring.tasks
        weights = {"tasks": self._weights_of(tasks, self._task_features(), training)}
        if SHARED in self._level.gates:
            weights[SHARED] = self._weights_of([SHARED], self._gate_inputs[SHARED], training)[0]
        return weights

    def _task_features(self) -> Tensor:
        """Return the inputs of the tasks' gates, `(K, B, D)`, or a common `(B, D)`."""
        tasks = self._wiring.tasks
        if self._gate_inputs is not self._streams:
            first, *others = [self._gate_inputs[task] for task in tasks]
            is_common = all(features is first for features in others)
            return first if is_common else ops.stack([first, *others])
        if self._is_one_input:
            return self._features
        if self._experts_per_task:
            return self._features[: self._num_task_experts : self._experts_per_task]
        return ops.stack([self._streams[task] for task in tasks])

    def _weights_of(self, names: list[str], features: Tensor, training: bool | None) -> Tensor:
        """Return the weights of gates, `(gates, n, B)`, for features `(gates, B, D)` or `(B, D)`.

        PyTorch's softmax over this middle axis is much faster than over a short last axis.
        """
        gates = [self._level.gates[name] for name in names]
        kernels = ops.swapaxes(ops.stack([gate.kernel for gate in gates]), 1, 2)
        logits = ops.matmul(kernels, ops.swapaxes(features, -1, -2))
        weights = gates[0]._normalize(logits, axis=1)
        if gates[0].track_weights and are_statistics_updated(training):
            update_statistics(gates, weights)
        return ops.cast(weights, gates[0].compute_dtype)

    def mix(self, weights: ByName, experts: Tensor) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (B, H)}`."""
        mixed = self._mix_for_tasks(weights["tasks"], experts)
        outputs = dict(zip(self._wiring.tasks, _split_tasks(mixed)))
        if SHARED in weights:
            if self._wiring.is_isolated:
                of_tasks, shared = ops.split(experts, [self._num_task_experts], axis=0)
                experts = ops.concatenate([ops.stop_gradient(of_tasks), shared], axis=0)
            outputs[SHARED] = ops.sum(ops.expand_dims(weights[SHARED], -1) * experts, axis=0)
        return outputs

    def _mix_for_tasks(self, weights: Tensor, experts: Tensor) -> Tensor:
        """Return the mixed experts of all tasks, `(K, B, H)`: own experts, then shared ones."""
        count, num_own = self._experts_per_task, self._num_task_experts
        own = [experts[i:num_own:count] for i in range(count)]
        shared = [experts[i : i + 1] for i in range(num_own, len(self._wiring.experts))]
        columns = [weights[:, i, :, None] for i in range(count + len(shared))]
        return reduce(add, map(mul, columns, own + shared))

    def weights_by_gate(self, weights: ByName) -> dict[str, Tensor]:
        """Return the result of `weights` as `{gate: (B, experts)}`."""
        of_tasks = _split_tasks(ops.swapaxes(weights["tasks"], 1, 2))
        by_gate = dict(zip(self._wiring.tasks, of_tasks))
        if SHARED in weights:
            by_gate[SHARED] = ops.transpose(weights[SHARED])
        return by_gate


def _split_tasks(mixed: Tensor) -> list[Tensor]:
    """Split `(K, ...)` into K tensors `(...)` that allow in-place operations, unlike views."""
    import torch

    return [part.squeeze(0) for part in torch.unsafe_split(mixed, 1)]
