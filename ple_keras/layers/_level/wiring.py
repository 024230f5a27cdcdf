"""Who reads what in a level: streams, experts and gates by name, in the order that counts."""

from collections.abc import Mapping
from typing import Any

from ple_keras._checks import SHARED, check_features, check_keys
from ple_keras._typing import Shape, StreamShapes


class LevelWiring:
    """The names of a level's streams, experts and gates, and what each is connected to.

    Args:
        task_experts: The number of experts of each task, in task order.
        num_shared_experts: The number of shared experts.
        add_shared_gate: Whether the shared stream has a gate.

    Attributes:
        task_experts: The number of experts of each task.
        tasks: The tasks, in order.
        streams: The inputs: one a task, and one for shared experts or a shared gate.
        experts: The stream that each expert reads: tasks' experts in task order, then shared ones.
        gates: The experts that each gate mixes, in the order of its weights.

    Raises:
        ValueError: if a gate would see no expert.
    """

    def __init__(
        self, task_experts: Mapping[str, int], num_shared_experts: int, add_shared_gate: bool
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
        for gate, experts in self.gates.items():
            if not experts:
                raise ValueError(
                    f"every gate must see at least one expert, but that of {gate!r} sees none. "
                    f"Received: num_task_experts={self.task_experts}, "
                    f"num_shared_experts={num_shared_experts}"
                )

    def _experts_of(self, stream: str) -> list[str]:
        return [expert for expert, source in self.experts.items() if source == stream]

    @property
    def names(self) -> list[str]:
        """What a file has to agree with: tasks and experts, in order."""
        return [*self.tasks, *self.experts]

    def sources(self, gate: str) -> list[str]:
        """The streams that reach a gate's output: its own, and those of its experts."""
        return list(dict.fromkeys([gate, *(self.experts[expert] for expert in self.gates[gate])]))

    def shapes(self, shape: StreamShapes) -> dict[str, Shape]:
        """The shape of each stream, `(batch, ..., features)`.

        Raises:
            ValueError: if one has no known number of features, or their ranks differ.
        """
        shapes = {
            stream: check_features(of_stream, f"inputs[{stream!r}]")
            for stream, of_stream in self.by_stream(shape).items()
        }
        if len({len(of_stream) for of_stream in shapes.values()}) > 1:
            raise ValueError(
                f"inputs must have the same axes in every stream but the last. "
                f"Received: inputs={shapes}"
            )
        return shapes

    def by_stream(self, value: Any) -> dict[str, Any]:
        """A value for each stream, from one for all or a dict with exactly the streams' names."""
        if not isinstance(value, Mapping):
            return dict.fromkeys(self.streams, value)
        check_keys(value, self.streams, "inputs")
        return {stream: value[stream] for stream in self.streams}
