"""The parts of variables that belong to each expert and gate of a level."""

from ple_keras.layers._level.expert_bank import Part
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.gate import Gate


def expert_parts(block: CGCBlock) -> dict[str, list[Part]]:
    """Return the parts of each expert of a built block, in the order of the expert's weights."""
    bank = block._level.bank
    return {expert: bank.parts(expert) for expert in block.expert_names}


def level_parts(block: CGCBlock) -> dict[str, list[Part]]:
    """Return the parts of a built block's experts and gates: "gate/click/shared/expert_0"."""
    parts = expert_parts(block)
    for name, gate in block._level.gates.items():
        of_gate = _gate_parts(gate, block.gate_experts[name])
        parts |= {f"gate/{name}/{part}": value for part, value in of_gate.items()}
    return parts


def _gate_parts(gate: Gate, experts: list[str]) -> dict[str, list[Part]]:
    """The column of W for each expert, and the gate block."""
    if gate.num_experts == 1:
        return {}
    # `kernel` would be a tensor, W with its LoRA added, where there is one.
    kernel = next(w for w in gate._projection.weights if w.name == "kernel")
    parts: dict[str, list[Part]] = {
        expert: [(kernel, (slice(None), i))] for i, expert in enumerate(experts)
    }
    if hasattr(gate, "_block"):
        parts["gate_block"] = [(weight, ()) for weight in gate._block.weights]
    return parts
