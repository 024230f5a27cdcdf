"""Experts and gates of a built level, and the choice of their computation."""

from collections.abc import Mapping

import keras

from ple_keras._checks import check_width, short_repr
from ple_keras._keras.copying import Template
from ple_keras._typing import ByName, DType, Shape, Streams, Tensor
from ple_keras.layers._level.batched_level import BatchedCall
from ple_keras.layers._level.convolution_level import ConvolutionCall
from ple_keras.layers._level.copied_experts import CopiedExperts
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.gate_inputs import GateInputs
from ple_keras.layers._level.regular_level import RegularLevel
from ple_keras.layers._level.stacked_experts import StackedExperts
from ple_keras.layers._level.unbatched_level import OverriddenLevel, UnbatchedLevel
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.expert_block import ExpertBlock
from ple_keras.layers.gate import Gate


class Level:
    """The experts and gates of a built CGCBlock.

    Args:
        block: The CGCBlock.
        wiring: The level's streams, experts and gates.
        widths: The number of features of each stream.
        bank: The experts, built.
        gates: The gates, built, by name.
        gate_inputs: The inputs of the gates, built.

    Attributes:
        bank, gates: As given.
    """

    def __init__(
        self,
        block: keras.Layer,
        wiring: LevelWiring,
        widths: Mapping[str, int | None],
        bank: ExpertBank,
        gates: Mapping[str, Gate],
        gate_inputs: GateInputs,
    ) -> None:
        self.bank, self.gates = bank, gates
        self._gate_inputs = gate_inputs
        self._regular = RegularLevel(wiring, bank, gates)
        self._block, self._wiring, self._widths = block, wiring, widths

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
        streams = self._wiring.by_stream(inputs)
        if any(isinstance(tensor, keras.KerasTensor) for tensor in streams.values()):
            raise ValueError(
                "inputs must not be symbolic, since a block's experts and gates are not layers of "
                "a Functional model. Use ple_keras.gate_weights(model, x) or "
                "ple_keras.gate_report(model, x) on a built model. "
                f"Received: inputs={short_repr(inputs)}"
            )
        self.check_widths({stream: tensor.shape for stream, tensor in streams.items()})
        return streams

    def check_widths(self, shapes: Mapping[str, Shape]) -> None:
        """Check that the streams have the widths that the block was built for."""
        for stream, width in self._widths.items():
            check_width(shapes[stream], width, f"inputs[{stream!r}]")

    def select_computation(
        self, inputs: Streams, streams: ByName, context: Streams | None
    ) -> UnbatchedLevel | BatchedCall | ConvolutionCall | OverriddenLevel:
        """Return the computation of the level on these inputs. No other code chooses it.

        Args:
            inputs: The inputs of the block.
            streams: The result of `streams` for these inputs.
            context: The context of the gates, or None.

        Raises:
            ValueError: If the context does not match the level.
        """
        gate_inputs = self.gate_inputs(streams, context)
        if self._block._is_overridden():
            unbatched = self.unbatched(streams, gate_inputs)
            return OverriddenLevel(unbatched, self._block, inputs, context)
        if self._regular.is_convolved(streams):
            return ConvolutionCall(self._regular, streams, gate_inputs)
        if self._regular.is_batched(streams):
            return BatchedCall(self._regular, streams, gate_inputs)
        return self.unbatched(streams, gate_inputs)

    def gate_inputs(self, streams: ByName, context: Streams | None) -> ByName:
        """Return the input of each gate."""
        return self._gate_inputs.tensors(streams, context, self._block.compute_dtype)

    def unbatched(self, streams: ByName, gate_inputs: ByName) -> UnbatchedLevel:
        """Return the computation that supports all experts, gates and inputs."""
        dtype = self._block.compute_dtype
        return UnbatchedLevel(self._wiring, self.bank, self.gates, dtype, streams, gate_inputs)


def build_bank(
    template: Template,
    experts: Mapping[str, str],
    shapes: Mapping[str, Shape],
    dtype: DType,
    stack: bool,
) -> ExpertBank:
    """Build the fastest bank for these experts.

    Args:
        template: The template of every expert.
        experts: The input stream of each expert, by expert name, in the order of the experts.
        shapes: The shape `(batch, ..., features)` of each stream.
        dtype: The dtype policy of the block.
        stack: Whether the experts may be stacked in one variable.
    """
    widths = {shapes[stream][-1] for stream in experts.values()}
    can_stack = stack and type(template.layer) is ExpertBlock and len(widths) == 1
    bank: ExpertBank = (
        StackedExperts(template, experts)
        if can_stack
        else CopiedExperts(template, experts, dtype=dtype)
    )
    bank.build(shapes)
    return bank
