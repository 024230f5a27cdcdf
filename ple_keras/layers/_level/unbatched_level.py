"""Computation of a level, one expert and one gate after the other."""

from collections.abc import Mapping
from functools import reduce
from operator import add

import keras
from keras import ops

from ple_keras._typing import ByName, Streams, Tensor
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.gate import Gate


class UnbatchedLevel:
    """Computation of a level with any experts, gates and inputs, for one call.

    Args:
        wiring: The level's streams, experts and gates.
        bank: The level's experts, built.
        gates: The level's gates, built, by name.
        dtype: The dtype of the outputs.
        streams: The inputs of the level, by stream.
        gate_inputs: The inputs of the gates, by gate.
    """

    def __init__(
        self,
        wiring: LevelWiring,
        bank: ExpertBank,
        gates: Mapping[str, Gate],
        dtype: str,
        streams: ByName,
        gate_inputs: ByName,
    ) -> None:
        self._wiring, self._bank, self._gates = wiring, bank, gates
        self._output_dtype, self._streams, self._gate_inputs = dtype, streams, gate_inputs

    def experts(self, training: bool | None) -> dict[str, Tensor]:
        """Return the output of every expert, `{expert: (..., H)}`."""
        outputs: dict[str, Tensor] = self._bank(self._streams, training=training)
        return outputs

    def weights(self, training: bool | None) -> dict[str, Tensor]:
        """Return the weights of every gate, `{gate: (..., experts)}`."""
        return {
            name: gate(self._gate_inputs[name], training=training)
            for name, gate in self._gates.items()
        }

    def weights_by_gate(self, weights: ByName) -> dict[str, Tensor]:
        """Return the result of `weights` as `{gate: (..., experts)}`."""
        return dict(weights)

    def mix(self, weights: ByName, experts: ByName) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (..., H)}`."""
        outputs = {}
        for gate, names in self._wiring.gates.items():
            stopped = self._wiring.stopped[gate]
            mixed = [ops.stop_gradient(experts[e]) if e in stopped else experts[e] for e in names]
            outputs[gate] = self._weighted_sum(weights[gate], mixed)
        return outputs

    def _weighted_sum(self, weights: Tensor, experts: list[Tensor]) -> Tensor:
        """Return sum_e w_e E_e as a running sum, without a tensor `(..., E, H)`."""
        columns = ops.split(weights, len(experts), axis=-1)
        return reduce(add, (w * ops.cast(x, self._output_dtype) for w, x in zip(columns, experts)))


class OverriddenLevel:
    """Computation of a level by the overridden methods of a CGCBlock.

    Args:
        unbatched: The level's own computation.
        block: The CGCBlock.
        inputs: The inputs of the block, which the overridden methods take.
        context: The context of the gates, or None.
    """

    def __init__(
        self,
        unbatched: UnbatchedLevel,
        block: keras.Layer,
        inputs: Streams,
        context: Streams | None,
    ) -> None:
        self.mix = unbatched.mix
        self._block, self._block_inputs = block, inputs
        # Methods that were written before there were contexts do not take one.
        self._context_argument = {} if context is None else {"gate_context": context}

    def experts(self, training: bool | None) -> dict[str, Tensor]:
        """Return the output of every expert, `{expert: (..., H)}`."""
        outputs: dict[str, Tensor] = self._block.expert_outputs(
            self._block_inputs, training=training
        )
        return outputs

    def weights(self, training: bool | None) -> dict[str, Tensor]:
        """Return the weights of every gate, `{gate: (..., experts)}`."""
        weights: dict[str, Tensor] = self._block.gate_weights(
            self._block_inputs, training=training, **self._context_argument
        )
        return weights

    def weights_by_gate(self, weights: ByName) -> dict[str, Tensor]:
        """Return the result of `weights` as `{gate: (..., experts)}`, in the compute dtype."""
        gates, dtype = self._block.gate_experts, self._block.compute_dtype
        return {gate: ops.cast(weights[gate], dtype) for gate in gates}
