"""Reference implementation of PLE, hedged blocks, heads and losses in NumPy with float64."""

import keras
import numpy as np

import ple_keras as pk


def softmax(x):
    exps = np.exp(x - x.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


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


def ple(blocks, x, context=None, values=None):
    """Compute a row of levels from a tensor or streams, and a context or contexts of gates.

    Args:
        blocks: The CGCBlocks.
        x: The inputs.
        context: The context of gates.
        values: As for `inside`.

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
            *parameters(block, values),
            block.add_shared_gate,
            block.gate_softmax_temperature,
            gate_inputs,
        )
        weights.append(of_level)
    return streams, weights


def values_of(layer):
    """Return the weights of a layer or model by path."""
    return {w.path: np.asarray(keras.ops.convert_to_numpy(w), "float64") for w in layer.weights}


def inside(layer, values=None):
    """Return the weights of a layer by their paths in it, as they are or from `values_of`."""
    values = values or values_of(layer)
    return {w.path.rsplit(layer.name + "/", 1)[1]: values[w.path] for w in layer.weights}


def parameters(block, values=None):
    """Return `experts` and `gates` of a CGCBlock for `cgc`, from the paths of its weights.

    Experts, stacked or copied, and gate blocks must be ExpertBlocks.
    """
    values = inside(block, values)
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


def hedged(block, x, values):
    """Compute the default branches of a HedgedBlock of ExpertBlocks."""
    own, _ = ple([block["own"]], x, values=values)
    shared = mlp(x, _layers(inside(block["shared"], values), "bottom/dense_{}"))
    return {task: {"own": own[task], "shared": shared} for task in block.task_names}


def prediction(head, features, values):
    """Return the prediction of a head, and those of its branches, if it has any."""
    if not isinstance(features, dict):
        return activation(head, logits(head, features, values), values), None
    branches = {branch: head[branch] for branch in features}
    mixture = dict(zip(sorted(branches), inside(head, values)["mixture"]))
    of_branches = {b: logits(branch, features[b], values) for b, branch in branches.items()}
    outputs = {b: activation(branches[b], z, values) for b, z in of_branches.items()}
    if isinstance(branches["own"], pk.RegressionHead):
        return sum(mixture[b] * outputs[b] for b in outputs), list(outputs.values())
    mixed = sum(mixture[b] * of_branches[b] for b in of_branches)
    return activation(branches["own"], mixed, values), list(outputs.values())


def logits(head, x, values):
    of_head = inside(head, values)
    hidden = mlp(x, _layers(of_head, "tower/dense_{}"))
    return hidden @ of_head["projection/kernel"] + of_head["projection/bias"]


def activation(head, x, values):
    """Return the predictions of a head from its logits."""
    if isinstance(head, pk.RankingHead):
        return x[..., 0]
    if getattr(head, "standardize", False):
        of_head = inside(head, values)
        return of_head["mean"] + of_head["deviation"] * x
    functions = {"sigmoid": sigmoid, "softmax": softmax}
    functions |= {"softplus": lambda x: np.log1p(np.exp(x)), "linear": lambda x: x}
    return functions[head.activation.__name__](x)


def losses(head, y, p, values):
    """Return the losses of examples, numbers or lists: NaN without a label, which is NaN."""
    if isinstance(head, pk.RankingHead):
        lists = zip(y.reshape(-1, y.shape[-1]), p.reshape(-1, p.shape[-1]))
        return np.array([ranking_loss(head.loss.name, *each) for each in lists])
    if isinstance(head, pk.RegressionHead):
        gaps = np.abs(y - p) / (inside(head, values)["deviation"] if head.standardize else 1.0)
        functions = {
            "mean_squared_error": gaps**2,
            "mean_absolute_error": gaps,
            "huber": np.where(gaps < 1, gaps**2 / 2, gaps - 0.5),
        }
        # A custom loss has a value for each example, and a label is missing if a number is.
        return functions.get(head.loss, np.mean(gaps**4, axis=-1))
    if isinstance(head, pk.MulticlassHead):
        of_label = np.take_along_axis(p, np.nan_to_num(y)[..., None].astype(int), axis=-1)[..., 0]
        return np.where(np.isnan(y), np.nan, -np.log(of_label))
    if head.loss == "categorical_crossentropy":  # a label is missing if a number is
        return -(y * np.log(p)).sum(axis=-1)
    factor = 1 + y * ((getattr(head, "pos_weight", None) or 1) - 1)
    return -factor * (y * np.log(p) + (1 - y) * np.log(1 - p))


def list_mle(labels, scores):
    ordered = scores[np.argsort(-labels, kind="stable")]
    return -sum(ordered[i] - np.log(np.exp(ordered[i:]).sum()) for i in range(len(ordered)))


def pairwise(labels, scores):
    pairs = [(i, j) for i in range(len(labels)) for j in range(len(labels))]
    of_pairs = [np.log1p(np.exp(scores[j] - scores[i])) for i, j in pairs if labels[i] > labels[j]]
    return sum(of_pairs) / len(labels)


def ranking_loss(name, labels, scores):
    """Return the loss of a list, over its labeled items; NaN without any."""
    known = ~np.isnan(labels)
    function = list_mle if name.startswith("list_mle") else pairwise
    return function(labels[known], scores[known]) if known.any() else np.nan


def reduced(values, reduction):
    """Return the loss of a batch from `losses`."""
    count, size = np.isfinite(values).sum(), values.size
    divisors = {None: count, "sum_over_batch_size": size, "label_root": np.sqrt(count * size)}
    return np.nansum(values) / max(divisors[reduction], 1)


def derivative(function, array, index):
    """Return the derivative of a function by an entry of an array, from central differences."""
    start, results = array[index], []
    for step in (STEP, -STEP):
        array[index] = start + step
        results.append(function())
    array[index] = start
    return (results[0] - results[1]) / (2 * STEP)


STEP = 1e-8  # seldom changes the sign of an input of a ReLU
