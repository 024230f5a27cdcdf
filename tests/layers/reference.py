"""Reference implementation of PLE in NumPy with float64."""

import numpy as np


def softmax(x):
    exps = np.exp(x - x.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def mlp(x, layers):
    """Apply ReLU layers, each a (kernel, bias)."""
    for kernel, bias in layers:
        x = np.maximum(x @ kernel + bias, 0)
    return x


def cgc(streams, tasks, experts, gates, shared_gate, temperature=1.0, gate_inputs=None):
    """Compute one level.

    Args:
        streams: `{task: x_k, "shared": x_s}`.
        tasks: The tasks in order.
        experts: `{stream: [layers of its expert 0, of its expert 1, ...]}`.
        gates: `{stream: (layers of its gate block, W)}`. A gate with one expert has no W.
        shared_gate: Whether the shared stream has a gate.
        temperature: The temperature of the gates.
        gate_inputs: The input of each gate, by default its stream.

    Returns:
        The streams of the next level, and the weights of each gate.
    """
    gate_inputs = gate_inputs or streams
    computed = {s: [mlp(streams[s], layers) for layers in experts[s]] for s in experts}
    mixed = {task: computed[task] + computed["shared"] for task in tasks}
    if shared_gate:
        mixed["shared"] = [x for s in [*tasks, "shared"] for x in computed[s]]
    outputs, weights = {}, {}
    for stream, candidates in mixed.items():
        weights[stream] = np.ones((*candidates[0].shape[:-1], 1))
        if len(candidates) > 1:
            block, kernel = gates[stream]
            logits = mlp(gate_inputs[stream], block) @ kernel / temperature
            weights[stream] = softmax(logits)
        outputs[stream] = np.einsum("...e,e...h->...h", weights[stream], np.stack(candidates))
    return outputs, weights


def ple(blocks, x, context=None):
    """Compute a row of levels from a tensor or streams, and a context or contexts of gates.

    Returns:
        The outputs, and a list with the gate weights of each level.
    """
    names = [*blocks[0].task_names, "shared"]
    streams, contexts = (
        {name: np.float64(each[name]) for name in each}
        if isinstance(each, dict)
        else dict.fromkeys(names, None if each is None else np.float64(each))
        for each in (x, context)
    )
    weights = []
    for block in blocks:
        parts = {"stream": [streams], "context": [contexts], "both": [streams, contexts]}
        gate_inputs = {
            gate: np.concatenate([part[gate] for part in parts[block.gate_reads]], axis=-1)
            for gate in block.gate_experts
        }
        streams, of_level = cgc(
            streams,
            block.task_names,
            *parameters(block),
            block.add_shared_gate,
            block.gate_softmax_temperature,
            gate_inputs,
        )
        weights.append(of_level)
    return streams, weights


def parameters(block):
    """Return `experts` and `gates` of a CGCBlock for `cgc`, from the paths of its weights.

    Experts, stacked or copied, and gate blocks must be ExpertBlocks.
    """
    values = {w.path.split(block.name + "/", 1)[1]: np.float64(w.numpy()) for w in block.weights}
    streams = [*block.task_names, "shared"]
    experts = {stream: [] for stream in streams}
    for index, name in enumerate(block.expert_names):
        stream = name.rsplit("/", 1)[0]
        experts[stream].append(
            _expert_layers(values, "expert-" + name.replace("/expert_", "-"), index)
        )
    gates = {
        stream: (
            _layers(values, f"gate-{stream}/block/dense_{{}}"),
            values.get(f"gate-{stream}/projection/kernel"),
        )
        for stream in streams
    }
    return experts, gates


def _expert_layers(values, name, index):
    copied = _layers(values, f"experts/{name}/dense_{{}}")
    if copied:
        return copied
    steps = sum(path.startswith("experts/kernel_") for path in values)
    return [
        (values[f"experts/kernel_{i}"][index], values[f"experts/bias_{i}"][index])
        for i in range(steps)
    ]


def _layers(values, pattern):
    layers = []
    while f"{pattern.format(len(layers))}/kernel" in values:
        path = pattern.format(len(layers))
        layers.append((values[f"{path}/kernel"], values[f"{path}/bias"]))
    return layers
