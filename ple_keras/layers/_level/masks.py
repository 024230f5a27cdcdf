"""Masks of the outputs of a level."""

from typing import Any

from keras import ops

from ple_keras._typing import Streams, Tensor
from ple_keras.layers._level.wiring import LevelWiring


def output_masks(wiring: LevelWiring, mask: Streams | None) -> dict[str, Any] | None:
    """Return the mask of each output: it is valid where all streams that its gate mixes are valid.

    Args:
        wiring: The level's streams, experts and gates.
        mask: The mask of the inputs, or the mask of each stream.

    Returns:
        A mask for each gate, which is None if all positions are valid; None if there are no masks.
    """
    masks = wiring.by_stream(mask)
    if all(of_stream is None for of_stream in masks.values()):
        return None
    return {
        gate: _all_valid([masks[stream] for stream in wiring.sources(gate)])
        for gate in wiring.gates
    }


def _all_valid(masks: list[Tensor]) -> Tensor:
    """Return the conjunction of masks. None means that all positions are valid."""
    distinct = list({id(mask): mask for mask in masks if mask is not None}.values())
    combined = distinct[0] if distinct else None
    for mask in distinct[1:]:
        combined = ops.logical_and(combined, mask)
    return combined
