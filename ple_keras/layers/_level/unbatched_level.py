"""A level computed one expert and one gate after the other."""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import keras
from keras import ops

from ple_keras._typing import ByStream, Tensor
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.wiring import LevelWiring


class UnbatchedLevel:
    """Computes a level of any experts and gates, on any inputs.

    Args:
        wiring: Who reads what.
        bank: The level's experts, built.
        gates: The level's gates, built, by name.
        dtype: The dtype of the outputs.
    """

    def __init__(
        self, wiring: LevelWiring, bank: ExpertBank, gates: Mapping[str, keras.Layer], dtype: str
    ) -> None:
        self._wiring, self._bank, self._gates, self._output_dtype = wiring, bank, gates, dtype

    def experts(self, streams: ByStream, training: bool | None) -> dict[str, Tensor]:
        """The output of every expert, `{expert: (..., H)}`."""
        outputs: dict[str, Any] = self._bank(streams, training=training)
        return outputs

    def weights(self, streams: ByStream, training: bool | None) -> dict[str, Tensor]:
        """The weights of every gate, `{gate: (..., experts)}`."""
        return {name: gate(streams[name], training=training) for name, gate in self._gates.items()}

    def mix(self, weights: ByStream, experts: ByStream) -> dict[str, Tensor]:
        """sum_e w_e E_e for every gate, `{gate: (..., H)}`."""
        return {
            gate: self._weighted_sum(weights[gate], [experts[name] for name in names])
            for gate, names in self._wiring.gates.items()
        }

    def _weighted_sum(self, weights: Tensor, experts: list[Tensor]) -> Tensor:
        """A running sum: nothing of the size (..., E, H) is built."""
        columns = ops.split(weights, len(experts), axis=-1)
        return reduce(add, (w * ops.cast(x, self._output_dtype) for w, x in zip(columns, experts)))


class OverriddenLevel(UnbatchedLevel):
    """Computes a level by the experts and gates of a subclass of CGCBlock."""

    def __init__(self, block: keras.Layer, wiring: LevelWiring, dtype: str) -> None:
        self._block, self._wiring, self._output_dtype = block, wiring, dtype

    def experts(self, streams: ByStream, training: bool | None) -> dict[str, Tensor]:
        outputs: dict[str, Any] = self._block.expert_outputs(streams, training=training)
        return outputs

    def weights(self, streams: ByStream, training: bool | None) -> dict[str, Tensor]:
        weights: dict[str, Any] = self._block.gate_weights(streams, training=training)
        return weights
