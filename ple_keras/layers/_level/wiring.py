"""Streams, experts and gates of a level, and their connections."""

from collections.abc import Mapping
from typing import Any

from ple_keras._checks import check_features, check_keys
from ple_keras._keras.tensors import all_valid
from ple_keras._typing import Shape, Streams, StreamShapes
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
        stopped: The experts that each gate mixes without training them.

    Raises:
        ValueError: If a gate has no expert.
    """

    def __init__(
        self,
        task_experts: Mapping[str, int],
        num_shared_experts: int,
        add_shared_gate: bool,
        isolate_task_experts: bool = False,
    ) -> None:
        self.task_experts = dict(task_experts)
        self.tasks = list(task_experts)
        self.streams = [*self.tasks, SHARED]
        if not (num_shared_experts or add_shared_gate):
            self.streams = self.tasks
        counts = {**task_experts, SHARED: num_shared_experts}
        self.experts = {
            f"{stream}/expert_{i}": stream for stream, count in counts.items() for i in range(count)
        }
        self.gates = {
            task: self._experts_of(task) + self._experts_of(SHARED) for task in self.tasks
        }
        if add_shared_gate:
            self.gates[SHARED] = list(self.experts)
        self.stopped: dict[str, list[str]] = {gate: [] for gate in self.gates}
        if add_shared_gate and isolate_task_experts:
            self.stopped[SHARED] = [e for e, stream in self.experts.items() if stream != SHARED]
        for gate, experts in self.gates.items():
            if not experts:
                raise ValueError(
                    f"every gate must have at least one expert, but {gate!r} has none. "
                    f"Received: num_task_experts={self.task_experts}, "
                    f"num_shared_experts={num_shared_experts}"
                )

    def _experts_of(self, stream: str) -> list[str]:
        return [expert for expert, source in self.experts.items() if source == stream]

    @property
    def is_isolated(self) -> bool:
        """Whether the shared gate mixes task experts without training them."""
        return any(self.stopped.values())

    @property
    def names(self) -> list[str]:
        """The tasks and experts, in order, which must be the same in a file."""
        return [*self.tasks, *self.experts]

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
