"""Methods of CGCBlock that return its experts, gate weights and gate statistics."""

from typing import Any

import keras

from ple_keras._typing import Streams, Tensor
from ple_keras.layers._level.gate_context import check_context, refuse_symbolic
from ple_keras.layers._level.level import Level
from ple_keras.layers._level.wiring import LevelWiring


class LevelInspection(keras.Layer):
    """Mixin of CGCBlock with methods to inspect the experts and gates of a built level."""

    enable_gate_weights_metrics: bool
    stack_experts: bool
    _wiring: LevelWiring
    _level: Level

    @property
    def expert_names(self) -> list[str]:
        """The experts, such as "click/expert_0": those of tasks in order, then the shared ones."""
        return list(self._wiring.experts)

    @property
    def gate_experts(self) -> dict[str, list[str]]:
        """The experts that each gate mixes, in the order of its weights."""
        return {gate: list(experts) for gate, experts in self._wiring.gates.items()}

    def _is_overridden(self) -> bool:
        """Return whether a subclass, or the block itself, overrides its experts or gates."""
        methods = (self.expert_outputs, self.gate_weights)
        own = (LevelInspection.expert_outputs, LevelInspection.gate_weights)
        return any(getattr(f, "__func__", None) is not g for f, g in zip(methods, own))

    def _built_level(self) -> Level:
        if not self.built:
            raise ValueError(
                f"{self.name!r} must be built or called before its experts and gates are used. "
                "Received: built=False"
            )
        return self._level

    def expert_outputs(self, inputs: Streams, training: bool | None = None) -> dict[str, Tensor]:
        """Return the outputs of every expert.

        Args:
            inputs: As for calling the block, but not symbolic. The block must be built.
            training: As for calling the block.

        Returns:
            `{expert name: (..., H)}`.

        Raises:
            ValueError: If the block is not built or the inputs are symbolic.
        """
        level = self._built_level()
        return level.unbatched(level.streams(inputs), {}).experts(training)

    def gate_weights(
        self,
        inputs: Streams,
        training: bool | None = None,
        gate_context: Streams | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights of every gate.

        Args:
            inputs: As for calling the block, but not symbolic. The block must be built.
            training: As for calling the block.
            gate_context: As for calling the block, but not symbolic.

        Returns:
            `{gate: (..., experts)}`, with a gate for each task, and "shared" with
            `add_shared_gate`. The experts have the order of `gate_experts`.

        Raises:
            TypeError: If the context has another type, or no numbers.
            ValueError: If the block is not built, or the inputs or the context are symbolic.
        """
        level = self._built_level()
        check_context(gate_context)
        refuse_symbolic(gate_context)
        streams = level.streams(inputs)
        return level.unbatched(streams, level.gate_inputs(streams, gate_context)).weights(training)

    def get_expert(self, name: str) -> keras.Layer:
        """Return an expert's layer, for example to freeze or inspect it.

        The block must have `stack_experts=False`, since stacked experts share one variable and
        can't be frozen separately. `transfer_weights` copies the weights of stacked experts to
        experts that are layers. Files and clones keep an expert frozen. They keep neither LoRA,
        which Keras merges into the kernels when it saves, nor a regularizer that is set on a built
        layer: set these again after loading.

        Args:
            name: One of `expert_names`.

        Raises:
            ValueError: If the block is not built, has no such expert, or its experts are stacked.

        Example:

        >>> cgc = CGCBlock(["click", "buy"], [8], stack_experts=False)
        >>> _ = cgc(keras.ops.ones((1, 16)))
        >>> cgc.get_expert("shared/expert_0").trainable = False
        """
        if not self.built or name not in self.expert_names:
            raise ValueError(
                f"name must be an expert of a built block, one of {self.expert_names}. "
                f"Received: name={name!r}, built={self.built}"
            )
        layer = self._level.bank.layer(name)
        if layer is None:
            raise ValueError(
                "stack_experts must be False to get an expert's layer, since stacked experts share "
                f"one variable. Received: stack_experts={self.stack_experts}"
            )
        return layer

    def gate_statistics(self) -> dict[str, dict[str, Any]]:
        """Return the statistics of each gate's weights since the last reset.

        Returns:
            `{gate: {"mean": ..., "entropy": ..., "max": ..., "count": ...}}`, see
            `Gate.statistics`.

        Raises:
            ValueError: If the block is not built or has no `enable_gate_weights_metrics`.
        """
        if not (self.built and self.enable_gate_weights_metrics):
            raise ValueError(
                "the block must be built and have enable_gate_weights_metrics=True to return gate "
                "statistics. Received: enable_gate_weights_metrics="
                f"{self.enable_gate_weights_metrics}, built={self.built}"
            )
        return {name: gate.statistics() for name, gate in self._level.gates.items()}

    def reset_gate_statistics(self) -> None:
        """Reset the statistics of all gates."""
        for gate in self._level.gates.values() if self.built else ():
            gate.reset_statistics()
