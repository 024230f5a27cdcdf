"""The inside of a built level: its experts and gates, and how they are computed."""

from collections.abc import Mapping

import keras

from ple_keras._typing import ByStream, DType, Shape
from ple_keras.layers._level.batched_level import BatchedLevel
from ple_keras.layers._level.copied_experts import CopiedExperts
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.stacked_experts import StackedExperts
from ple_keras.layers._level.unbatched_level import OverriddenLevel, UnbatchedLevel
from ple_keras.layers._level.wiring import LevelWiring
from ple_keras.layers.expert_block import ExpertBlock
from ple_keras.layers.gate import Gate
from ple_keras.layers.template import Template


class Level:
    """The experts and gates of a CGCBlock.

    Args:
        wiring: Who reads what.
        bank: The experts, built.
        gates: The gates, built, by name.
        block: The CGCBlock.
        is_overridden: Whether the block is of a subclass with experts or gates of its own.

    Attributes:
        wiring, bank, gates: As given.
    """

    def __init__(
        self,
        wiring: LevelWiring,
        bank: ExpertBank,
        gates: Mapping[str, Gate],
        block: keras.Layer,
        is_overridden: bool,
    ) -> None:
        self.wiring, self.bank, self.gates = wiring, bank, gates
        dtype = block.compute_dtype
        self.unbatched = UnbatchedLevel(wiring, bank, gates, dtype)
        self._batched = BatchedLevel(wiring, bank, gates)
        self._by_subclass = OverriddenLevel(block, wiring, dtype) if is_overridden else None

    def computation(self, streams: ByStream) -> UnbatchedLevel | BatchedLevel:
        """Choose how to compute the level on these inputs: the one place that decides it."""
        if self._by_subclass:
            return self._by_subclass
        return self._batched if self._batched.supports(streams) else self.unbatched


def make_bank(
    template: Template,
    experts: Mapping[str, str],
    shapes: Mapping[str, Shape],
    dtype: DType,
    stack: bool,
) -> ExpertBank:
    """The bank that computes these experts fastest, built.

    Args:
        template: What every expert is a copy of.
        experts: The stream that each expert reads, by the expert's name; the order counts.
        shapes: The shape `(batch, ..., features)` of each stream.
        dtype: The dtype policy of the block that the bank stands in.
        stack: Whether experts may be slices of one variable.
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
