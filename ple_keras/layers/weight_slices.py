"""Parts of variables that belong to each expert and gate of a level, or to each stream."""

from ple_keras._typing import WeightSlice
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.gate import Gate
from ple_keras.layers.stream_features import StreamFeatures


def expert_slices(block: CGCBlock) -> dict[str, list[WeightSlice]]:
    """Return the parts of each expert of a built block, in the order of the expert's weights."""
    bank = block._level.bank
    return {expert: bank.slices(expert) for expert in block.expert_names}


def gate_slices(block: CGCBlock) -> dict[str, list[WeightSlice]]:
    """Return the parts of the gates of a built block.

    A gate has a key per expert, such as "gate/click/shared/expert_0", and "gate/click/gate_block".
    """
    return {
        f"gate/{name}/{key}": slices
        for name, gate in block._level.gates.items()
        for key, slices in _slices_of_gate(gate, block.gate_experts[name]).items()
    }


def level_slices(block: CGCBlock) -> dict[str, list[WeightSlice]]:
    """Return the parts of the experts and gates of a built block."""
    return expert_slices(block) | gate_slices(block)


def _slices_of_gate(gate: Gate, experts: list[str]) -> dict[str, list[WeightSlice]]:
    """Return the column of W for each expert, and the weights of the gate block."""
    if gate.num_experts == 1:
        return {}
    # With LoRA, the attribute `kernel` is a tensor, W plus the update.
    kernel = next(w for w in gate._projection.weights if w.name == "kernel")
    slices: dict[str, list[WeightSlice]] = {
        expert: [(kernel, (slice(None), i))] for i, expert in enumerate(experts)
    }
    if hasattr(gate, "_block"):
        slices["gate_block"] = [(weight, ()) for weight in gate._block.weights]
    return slices


def stream_slices(features: StreamFeatures) -> dict[str, list[WeightSlice]]:
    """Return the weights of each copy of a built StreamFeatures."""
    return {copy.name: [(weight, ()) for weight in copy.weights] for copy in features.layers}
