"""The choice of a bank of experts."""

from collections.abc import Mapping
from typing import Any

from ple_keras._keras.building import Shape
from ple_keras.layers._level.copied_experts import CopiedExperts
from ple_keras.layers._level.expert_bank import ExpertBank
from ple_keras.layers._level.stacked_experts import StackedExperts
from ple_keras.layers.expert_block import ExpertBlock
from ple_keras.layers.template import Template


def expert_bank(
    template: Template, experts: Mapping[str, str], shapes: Mapping[str, Shape], dtype: Any
) -> "ExpertBank":
    """The bank that runs these experts fastest, built.

    Args:
        template: What every expert is a copy of.
        experts: The stream that each expert reads, by the expert's name; the order counts.
        shapes: The shape `(batch, ..., features)` of each stream.
        dtype: The dtype policy of the block that the bank stands in.
    """
    widths = {shapes[stream][-1] for stream in experts.values()}
    stackable = type(template.layer) is ExpertBlock and len(widths) == 1
    bank: ExpertBank = (
        StackedExperts(template, experts)
        if stackable
        else CopiedExperts(template, experts, dtype=dtype)
    )
    bank.build(shapes)
    return bank
