"""A level with two options from the literature, to measure them before the library has them.

residual    A task's output is the mix of its gate plus a learned multiple of its own expert (AdaTT:
            Li et al., KDD 2023, arXiv 2304.04959).
visible     A task's gate also mixes the other tasks' experts, with stopped gradients (STEM: Su et
            al., AAAI 2024, arXiv 2308.13537).

Without an option, a level computes the same as a CGCBlock with isolated task experts.
"""

from typing import Any

import keras
from keras import ops

import ple_keras as pk

SHARED = "shared"


class LiteratureLevel(keras.Layer):
    """A level with one expert for each task, one shared expert, and an optional shared gate.

    Args:
        tasks: The tasks.
        expert_block: The template of the experts.
        option: "residual", "visible" or "".
        add_shared_gate: Whether a next level reads the output of a shared gate.
        **kwargs: Keras's layer arguments.
    """

    def __init__(
        self,
        tasks: list[str],
        expert_block: pk.ExpertBlock,
        option: str,
        add_shared_gate: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tasks, self.option = tasks, option
        streams = [*tasks, SHARED]
        self.experts = {
            stream: pk.ExpertBlock.from_config({**expert_block.get_config(), "name": stream})
            for stream in streams
        }
        self.gates = {
            stream: pk.Gate(len(self._mixed(stream)), name=f"gate-{stream}")
            for stream in (streams if add_shared_gate else tasks)
        }
        self.multiples: dict[str, keras.Variable] = {}

    def _mixed(self, stream: str) -> list[str]:
        """Return the streams whose experts a gate mixes."""
        if stream == SHARED:
            return [*self.tasks, SHARED]
        others = [task for task in self.tasks if task != stream]
        return [stream, SHARED, *(others if self.option == "visible" else [])]

    def build(self, input_shape: Any) -> None:
        shapes = self._by_stream(input_shape)
        for layers in (self.experts, self.gates):
            for stream, layer in layers.items():
                layer.build(shapes[stream])
        if self.option == "residual":
            for task in self.tasks:
                self.multiples[task] = self.add_weight(
                    shape=(), initializer="ones", name=f"multiple-{task}"
                )

    def _by_stream(self, inputs: Any) -> dict[str, Any]:
        return inputs if isinstance(inputs, dict) else dict.fromkeys(self.experts, inputs)

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        streams = self._by_stream(inputs)
        experts = {
            name: layer(streams[name], training=training) for name, layer in self.experts.items()
        }
        outputs = {}
        for name, gate in self.gates.items():
            mixed = [
                experts[other] if other in (name, SHARED) else ops.stop_gradient(experts[other])
                for other in self._mixed(name)
            ]
            weights = ops.split(gate(streams[name], training=training), len(mixed), axis=-1)
            outputs[name] = sum(weight * expert for weight, expert in zip(weights, mixed))
        for task, multiple in self.multiples.items():
            outputs[task] += multiple * experts[task]
        return outputs
