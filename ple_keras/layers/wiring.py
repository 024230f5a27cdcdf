"""Streams, experts and gates of a level, and their connections."""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

from keras import ops

from ple_keras._checks import check_features, check_keys
from ple_keras._keras.tensors import all_valid
from ple_keras._typing import ByName, Shape, Streams, StreamShapes, Tensor
from ple_keras.labels.task_names import SHARED


class LevelWiring:
    """Names and connections of a level's streams, experts and gates.

    Args:
        task_experts: The number of experts of each task, in task order.
        num_shared_experts: The number of shared experts.
        add_shared_gate: Whether the shared stream has a gate.
        isolate_task_experts: Whether the shared gate mixes task experts without training them.

    Attributes:
        task_experts: The number of experts of each task.
        tasks: The tasks, in order.
        streams: The inputs: one per task, and "shared" with shared experts or a shared gate.
        experts: The input stream of each expert. Task experts are first, in task order.
        gates: The experts that each gate mixes, in the order of its weights.
        is_isolated: Whether the shared gate mixes task experts without training them.

    Raises:
        ValueError: If a gate has no expert.
    """

    def __init__(
        self,
        task_experts: Mapping[str, int],
        num_shared_experts: int,
        add_shared_gate: bool,
        isolate_task_experts: bool,
    ) -> None:
        self.task_experts = dict(task_experts)
        self.tasks = list(task_experts)
        has_shared_stream = num_shared_experts or add_shared_gate
        self.streams = [*self.tasks, SHARED] if has_shared_stream else self.tasks
        counts = {**task_experts, SHARED: num_shared_experts}
        of_stream = {
            stream: [f"{stream}/expert_{i}" for i in range(count)]
            for stream, count in counts.items()
        }
        self.experts = {e: stream for stream, experts in of_stream.items() for e in experts}
        self.gates = {task: of_stream[task] + of_stream[SHARED] for task in self.tasks}
        if add_shared_gate:
            self.gates[SHARED] = list(self.experts)
        self.is_isolated = add_shared_gate and isolate_task_experts and any(task_experts.values())
        for gate, experts in self.gates.items():
            if not experts:
                raise ValueError(
                    f"every gate must have at least one expert, but {gate!r} has none. "
                    f"Received: num_task_experts={self.task_experts}, "
                    f"num_shared_experts={num_shared_experts}"
                )

    def shapes(self, shape: StreamShapes | None) -> dict[str, Shape]:
        """Return the shape of each stream, `(batch, ..., features)`.

        Raises:
            ValueError: If a stream has an unknown number of features, or ranks differ.
        """
        shapes = {
            stream: check_features(stream_shape, f"inputs[{stream!r}]")
            for stream, stream_shape in self.by_stream(shape).items()
        }
        if len({len(stream_shape) for stream_shape in shapes.values()}) > 1:
            raise ValueError(
                "inputs must have the same axes, except for the last, in every stream. "
                f"Received: inputs={shapes}"
            )
        return shapes

    def by_stream(self, value: Any) -> dict[str, Any]:
        """Return a value per stream, from one value or a dict with exactly the streams' names."""
        if not isinstance(value, Mapping):
            return dict.fromkeys(self.streams, value)
        check_keys(value, self.streams, "inputs")
        return {stream: value[stream] for stream in self.streams}

    def masks(self, mask: Streams | None) -> dict[str, Any] | None:
        """Return the mask of each output: it is valid where all streams that its gate mixes are.

        Args:
            mask: The mask of the inputs, or the mask of each stream.

        Returns:
            A mask for each gate, which is None if all positions are valid; None if there are no
            masks.
        """
        masks = self.by_stream(mask)
        if all(of_stream is None for of_stream in masks.values()):
            return None
        return {
            gate: all_valid([masks[gate], *(masks[self.experts[expert]] for expert in experts)])
            for gate, experts in self.gates.items()
        }

    def mix(self, weights: ByName, experts: ByName, dtype: str) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (..., H)}`.

        It is a running sum, without a tensor `(..., E, H)`.

        Args:
            weights: The weights of every gate.
            experts: The outputs of every expert, by name.
            dtype: The dtype of the result.
        """
        outputs = {}
        for gate, names in self.gates.items():
            columns = ops.split(weights[gate], len(names), axis=-1)
            is_stopped = self.is_isolated and gate == SHARED
            mixed = [
                ops.stop_gradient(experts[e])
                if is_stopped and self.experts[e] != SHARED
                else experts[e]
                for e in names
            ]
            outputs[gate] = reduce(add, (w * ops.cast(x, dtype) for w, x in zip(columns, mixed)))
        return outputs

    @property
    def is_batchable(self) -> bool:
        """Whether `mix_batched` supports the level: every task has the same number of experts."""
        return len(set(self.task_experts.values())) == 1

    def mix_batched(self, weights: ByName, experts: Tensor) -> dict[str, Tensor]:
        """Return the result of `mix` in few operations, on eager PyTorch.

        Args:
            weights: The weights of every gate.
            experts: The outputs of all experts, `(E, B, H)`.
        """
        import torch

        count = self.task_experts[self.tasks[0]]
        num_own = count * len(self.tasks)
        own = [experts[i:num_own:count] for i in range(count)]  # each (K, B, H)
        columns = ops.stack([weights[task] for task in self.tasks])[..., None].unbind(2)
        mixed = reduce(add, (w * x for w, x in zip(columns, [*own, *experts[num_own:]])))
        # Unlike the views of `unbind`, these parts allow operations in place.
        parts = [part.squeeze(0) for part in torch.unsafe_split(mixed, 1)]
        outputs = dict(zip(self.tasks, parts))
        if SHARED in self.gates:
            if self.is_isolated:
                experts = torch.cat([experts[:num_own].detach(), experts[num_own:]])
            outputs[SHARED] = (weights[SHARED].t()[..., None] * experts).sum(0)
        return outputs
