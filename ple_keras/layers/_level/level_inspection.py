"""The methods of CGCBlock that give its experts, its gates' weights and their statistics."""

from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._checks import check_width
from ple_keras._typing import Shape, Streams, Tensor
from ple_keras.layers._level.level import Level
from ple_keras.layers._level.wiring import LevelWiring


class LevelInspection(keras.Layer):
    """Experts and gates of a built level, from outside."""

    enable_gate_weights_metrics: bool
    stack_experts: bool
    _wiring: LevelWiring
    _level: Level
    _widths: Any

    @property
    def expert_names(self) -> list[str]:
        """All experts: each task's in task order, then the shared ones ("click/expert_0")."""
        return list(self._wiring.experts)

    @property
    def gate_experts(self) -> dict[str, list[str]]:
        """The experts that each gate mixes, in the order of its weights."""
        return {gate: list(experts) for gate, experts in self._wiring.gates.items()}

    def _streams(self, inputs: Streams) -> dict[str, Tensor]:
        """The tensor of each stream, its width checked.

        Raises:
            ValueError: if the inputs are none of a built level.
        """
        if not self.built:
            raise ValueError(
                f"{self.name!r} must be built or called before its experts and gates can be. "
                "Received: built=False"
            )
        if isinstance(inputs, list | tuple):
            raise ValueError(
                f"inputs must be one tensor or a dict by stream. Received: inputs={inputs!r}"
            )
        streams = self._wiring.by_stream(inputs)
        if any(isinstance(tensor, keras.KerasTensor) for tensor in streams.values()):
            raise ValueError(
                "inputs must be tensors, not symbolic ones, for a block's experts and gates are no "
                "layers of a Functional model: run ple_keras.gate_weights(model, x) or "
                "ple_keras.gate_report(model, x) on a built model. "
                f"Received: inputs={inputs!r}"
            )
        self._check_widths({stream: tensor.shape for stream, tensor in streams.items()})
        return streams

    def _check_widths(self, shapes: Mapping[str, Shape]) -> None:
        """Refuse other widths than those that the block was built for."""
        for stream, width in self._widths.value.items():
            check_width(shapes[stream], width, f"inputs[{stream!r}]")

    def expert_outputs(self, inputs: Streams, training: bool | None = None) -> dict[str, Tensor]:
        """Return the outputs of every expert.

        Args:
            inputs: As for calling the block, which must be built; not symbolic.
            training: As for calling the block.

        Returns:
            `{expert name: (..., H)}`.

        Raises:
            ValueError: if the block isn't built or the inputs are symbolic.
        """
        streams = self._streams(inputs)
        return self._level.unbatched.experts(streams, training)

    def gate_weights(self, inputs: Streams, training: bool | None = None) -> dict[str, Tensor]:
        """Return the weights of every gate.

        Args:
            inputs: As for calling the block, which must be built; not symbolic.
            training: As for calling the block.

        Returns:
            `{gate: (..., experts)}`: a gate for each task, and "shared" with `add_shared_gate`;
            the experts in the order of `gate_experts`.

        Raises:
            ValueError: if the block isn't built or the inputs are symbolic.
        """
        streams = self._streams(inputs)
        return self._level.unbatched.weights(streams, training)

    def get_expert(self, name: str) -> keras.Layer:
        """Return one expert's layer, for example to freeze or inspect it.

        Files and clones keep it frozen. Give the block `stack_experts=False`: stacked experts are
        slices of one variable, which no `trainable` can tell apart. `transfer_weights` copies
        weights of stacked experts into experts that are layers.

        Args:
            name: One of `expert_names`.

        Raises:
            ValueError: if the block isn't built, has no such expert, or its experts are stacked.

        Example:

        >>> cgc = CGCBlock(["click", "buy"], [8], stack_experts=False)
        >>> _ = cgc(keras.ops.ones((1, 16)))
        >>> cgc.get_expert("shared/expert_0").trainable = False
        """
        if not self.built or name not in self.expert_names:
            raise ValueError(
                f"name must be an expert's, of a built block: one of {self.expert_names}. "
                f"Received: name={name!r}, built={self.built}"
            )
        layer = self._level.bank.layer(name)
        if layer is None:
            raise ValueError(
                "stack_experts must be False for each expert to be a layer of its own: stacked "
                f"experts are slices of one variable. Received: stack_experts={self.stack_experts}"
            )
        return layer

    def gate_statistics(self) -> dict[str, dict[str, Any]]:
        """Return the statistics of each gate's weights since the last reset.

        Returns:
            `{gate: {"mean": ..., "entropy": ..., "max": ..., "count": ...}}`, see
            `Gate.statistics`.

        Raises:
            ValueError: unless the block is built and has `enable_gate_weights_metrics`.
        """
        if not (self.built and self.enable_gate_weights_metrics):
            raise ValueError(
                "gate statistics are kept only by a built block with "
                "enable_gate_weights_metrics=True. Received: enable_gate_weights_metrics="
                f"{self.enable_gate_weights_metrics}, built={self.built}"
            )
        return {name: gate.statistics() for name, gate in self._level.gates.items()}

    def reset_gate_statistics(self) -> None:
        """Reset the statistics of all gates."""
        for gate in self._level.gates.values() if self.built else ():
            gate.reset_statistics()

    def _gates(self) -> dict[str, Any]:
        """The gates by name. No property: Keras would look for weights in it."""
        return dict(self._level.gates)
