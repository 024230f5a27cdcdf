"""Copy a trained PLE, MMOE or SharedBottom from torch-rechub to ple_keras, and compare predictions.

    pip install -e ".[torch]" torch-rechub
    KERAS_BACKEND=torch python examples/from_torch_rechub.py

Takes half a minute on two cores. Trains torch-rechub's PLE on random data, builds the equivalent
ple_keras model, copies all weights, prints the largest difference between the predictions, and
saves the model. The file loads on every backend, without torch-rechub.

torch-rechub has a batch norm after each Linear layer, even in the gates. They are merged into the
Dense layers, which is faster and predicts the same. To continue training as torch-rechub does, keep
them:

    KERAS_BACKEND=torch python examples/from_torch_rechub.py --keep-batch-norms

For your own model, replace `features` and SETTINGS with its arguments, and TASKS with names for its
tasks in order. Pass its `state_dict()` to `copy_weights`, or pass the file that MTLTrainer wrote:

    KERAS_BACKEND=torch python examples/from_torch_rechub.py --weights model_base_0.pth
"""

import argparse
import re

import keras
import numpy as np
import torch

import ple_keras as pk

TASKS = ["click", "watch_time"]
SETTINGS = {  # arguments of torch_rechub.models.multi_task.PLE
    "task_types": ["classification", "regression"],
    "n_level": 2,
    "n_expert_specific": 2,
    "n_expert_shared": 1,
    "expert_params": {"dims": [32, 16], "activation": "relu", "dropout": 0.0},
    "tower_params_list": [{"dims": [8], "activation": "relu", "dropout": 0.0}] * 2,
}
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}  # the defaults of PyTorch
ACTIVATIONS = ("relu", "sigmoid", "softmax")


def import_rechub():
    """Return the modules of torch-rechub for features, models and trainers."""
    from torch_rechub import models, trainers
    from torch_rechub.basic import features

    return features, models.multi_task, trainers


def features(basic):
    """Return the features of the model, as torch-rechub's objects."""
    return [
        basic.SparseFeature("user", vocab_size=1000, embed_dim=8),
        basic.SparseFeature("item", vocab_size=200, embed_dim=8),
        basic.DenseFeature("numbers", embed_dim=3),
    ]


def build(
    features,
    task_types,
    tower_params_list,
    task_names,
    n_level=1,
    n_expert_specific=0,
    n_expert_shared=0,
    expert_params=None,
    n_expert=None,
    bottom_params=None,
    keep_batch_norms=False,
):
    """Return the ple_keras model that equals torch-rechub's `PLE` with the same arguments.

    With `n_expert`, it equals `MMOE`, and with `bottom_params`, `SharedBottom`.
    """

    def mlp(dims, activation="relu", dropout=0.0, **_):
        if activation not in (*ACTIVATIONS, None):
            raise ValueError(f"write an expert with the activation {activation!r} by hand.")
        if not keep_batch_norms:
            return pk.ExpertBlock(dims, activation, dropout)
        layers = []
        for step, units in enumerate(dims):
            layers += [
                keras.layers.Dense(units, name=f"dense_{step}"),
                keras.layers.BatchNormalization(**BATCH_NORM, name=f"normalization_{step}"),
                keras.layers.Activation(activation or "linear"),
                keras.layers.Dropout(dropout),
            ]
        return keras.Sequential(layers)

    def head(task, task_type, tower):
        make = {"classification": pk.BinaryHead, "regression": pk.RegressionHead}[task_type]
        mean = 1 / len(task_names)  # the trained loss is the mean over the tasks
        return make(task, tower=mlp(**tower) if tower.get("dims") else None, loss_weight=mean)

    heads = pk.TaskHeads(list(map(head, task_names, task_types, tower_params_list)), name="heads")
    # A gate is softmax(norm(W x + b)). The gate block computes norm(W x + b), as wide as the widest
    # gate. The kernel of the Gate itself selects the units of its experts.
    widest = n_expert or n_expert_specific * len(task_names) + n_expert_shared
    if bottom_params:
        block = pk.SharedBottomBlock(heads, mlp(**bottom_params), name="shared_bottom")
    else:
        expert, gate_block = mlp(**expert_params), mlp([widest], activation=None)
        if n_expert:
            block = pk.MMoEBlock(heads, expert, n_expert, gate_block, name="mmoe")
        else:
            counts = n_expert_specific, n_expert_shared
            block = pk.PLEBlock(n_level, heads, expert, *counts, gate_block, name="ple")
    inputs, encoded = encode(features)
    return pk.MultiTaskModel(inputs, heads(block(encoded)))


def encode(features):
    """Return an input for each feature, and all features: first those with tables, then dense."""
    sparse = [feature for feature in features if hasattr(feature, "vocab_size")]
    dense = [feature for feature in features if feature not in sparse]
    for feature in sparse:
        if hasattr(feature, "pooling"):
            raise ValueError(f"{feature.name} is a SequenceFeature: add layers for it by hand.")
    tables = {
        feature.name: keras.layers.Embedding(
            feature.vocab_size, feature.embed_dim, name=f"table_{feature.name}"
        )
        for feature in sparse
        if feature.shared_with is None
    }
    inputs = {
        feature.name: keras.Input((1,), dtype="int32", name=feature.name) for feature in sparse
    }
    inputs |= {
        feature.name: keras.Input((feature.embed_dim,), name=feature.name) for feature in dense
    }
    rows = [tables[feature.shared_with or feature.name](inputs[feature.name]) for feature in sparse]
    parts = [keras.layers.Flatten()(row) for row in rows] + [inputs[each.name] for each in dense]
    return inputs, parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts)


def copy_weights(state, model, task_names):
    """Copy the weights of a torch-rechub model, its `state_dict()`, to the equivalent model.

    `task_names` are in the order of the tasks. Batch norms that the model lacks are merged into the
    Dense layers. Raises ValueError before copying anything if a weight has no counterpart or a
    different shape.
    """
    arrays = {name: np.asarray(torch.as_tensor(array).cpu()) for name, array in state.items()}
    state = {rename(name): array for name, array in arrays.items()}
    variables = {  # without the current loss weights of the tasks
        variable.path: variable for variable in model.weights if variable.name != "loss_multipliers"
    }
    named = {}
    for name in [name for name in state if name.startswith("embedding.embed_dict.")]:
        named[f"table_{name.split('.')[2]}/embeddings"] = state.pop(name)
    for source, path in mlp_paths(model, task_names).items():
        named |= take_mlp(state, source, path, variables)
    for index, level in enumerate(find_levels(model)):
        if "shared" not in level.gate_experts:  # without shared experts, its output is unused
            of_gate = f"cgc_layers.{index}.gate_shared."
            state = {n: array for n, array in state.items() if not n.startswith(of_gate)}
        for gate, experts in level.gate_experts.items():
            fit_gate(named, f"{level.path}/gate-{gate}", len(experts), variables)
        if f"{level.path}/experts/kernel_0" in variables:
            stack_experts(named, level)
    for index, task in enumerate(task_names):  # the last layer of a tower has no batch norm
        (last,) = {name.rpartition(".")[0] for name in state if f"towers.{index}." in name}
        named[f"heads/{task}_head/projection/kernel"] = state.pop(f"{last}.weight").T
        named[f"heads/{task}_head/projection/bias"] = state.pop(f"{last}.bias")
    assign(variables, named, state)


def rename(name):
    """Rename a weight of an MMOE as in a PLE with one level."""
    name = name.removeprefix("module.")  # of DataParallel
    name = re.sub(r"^experts\.", "cgc_layers.0.experts_shared.", name)
    return re.sub(r"^gates\.", "cgc_layers.0.gates_specific.", name)


def find_levels(model):
    """Return the levels of a PLE, the block of an MMoE, or no level for a shared bottom."""
    blocks = [layer for layer in model.layers if layer.name in ("ple", "mmoe")]
    return [level for block in blocks for level in (block if block.name == "ple" else [block])]


def mlp_paths(model, task_names):
    """Return the path in the model of each MLP of torch-rechub."""
    paths = {f"towers.{i}": f"heads/{task}_head/tower" for i, task in enumerate(task_names)}
    paths["bottom_mlp"] = "shared_bottom/bottom"
    for index, level in enumerate(find_levels(model)):
        source, position = f"cgc_layers.{index}", {"specific": 0, "shared": 0}
        for name in level.expert_names:  # first the tasks' in order, then the shared ones
            kind = "shared" if name.startswith("shared/") else "specific"
            expert = f"{source}.experts_{kind}.{position[kind]}"
            paths[expert] = expert_path(level, name)
            position[kind] += 1
        for gate in level.gate_experts:
            is_shared = gate == "shared"
            number = "gate_shared" if is_shared else f"gates_specific.{task_names.index(gate)}"
            paths[f"{source}.{number}"] = f"{level.path}/gate-{gate}/block"
    return paths


def expert_path(level, name):
    return f"{level.path}/experts/expert-{name.replace('/expert_', '-')}"


def take_mlp(state, source, path, variables):
    """Remove the weights of an MLP from the state, and return them by path."""
    named, step = {}, 0
    # Each step has four modules: Linear, BatchNorm1d, activation and Dropout.
    while f"{source}.mlp.{4 * step + 1}.running_mean" in state:
        linear, norm = f"{source}.mlp.{4 * step}", f"{source}.mlp.{4 * step + 1}"
        kernel, bias = state.pop(f"{linear}.weight").T, state.pop(f"{linear}.bias")
        del state[f"{norm}.num_batches_tracked"]
        gamma, beta = state.pop(f"{norm}.weight"), state.pop(f"{norm}.bias")
        mean, variance = state.pop(f"{norm}.running_mean"), state.pop(f"{norm}.running_var")
        if f"{path}/normalization_{step}/gamma" in variables:
            statistics = {"moving_mean": mean, "moving_variance": variance}
            for name, array in {"gamma": gamma, "beta": beta, **statistics}.items():
                named[f"{path}/normalization_{step}/{name}"] = array
        else:
            scale = gamma / np.sqrt(variance + BATCH_NORM["epsilon"])
            kernel, bias = kernel * scale, (bias - mean) * scale + beta
        named |= {f"{path}/dense_{step}/kernel": kernel, f"{path}/dense_{step}/bias": bias}
        step += 1
    return named


def fit_gate(named, path, num_experts, variables):
    """Pad the gate block with units of 0, and add the kernel that selects the gate's experts."""
    for name in [name for name in named if name.startswith(f"{path}/block/")]:
        array = named.pop(name)
        if num_experts > 1:  # a Gate of one expert has no weights
            is_one = name.endswith(("/gamma", "/moving_variance"))
            widths = [(0, 0)] * array.ndim
            widths[-1] = (0, variables[name].shape[-1] - num_experts)
            named[name] = np.pad(array, widths, constant_values=float(is_one))
    if num_experts > 1:
        kernel = f"{path}/projection/kernel"
        named[kernel] = np.eye(*variables[kernel].shape, dtype="float32")


def stack_experts(named, level):
    """Replace the kernels and biases of a level's experts with stacks in the level's order."""
    experts = [expert_path(level, name) for name in level.expert_names]
    for name in [name for name in named if name.startswith(f"{experts[0]}/dense_")]:
        step, kind = name.removeprefix(f"{experts[0]}/dense_").split("/")
        parts = [f"{expert}/dense_{step}/{kind}" for expert in experts]
        if named.keys() >= set(parts):
            stack = np.stack([named.pop(part) for part in parts])
            named[f"{level.path}/experts/{kind}_{step}"] = stack


def assign(variables, named, rest):
    """Check that no array is left and all shapes match, then assign arrays to variables by path."""
    of_layers = [name for name in rest if not name.startswith("loss weight.")]  # of MTLTrainer
    problems = {
        "no layer was found for": of_layers,
        "the model has no weights": sorted(named.keys() - variables.keys()),
        "no arrays were given for": sorted(variables.keys() - named.keys()),
    }
    found = [
        f"{text} {names[:3]}, {len(names)} in all" for text, names in problems.items() if names
    ]
    if found:
        raise ValueError("; ".join(found))
    for path, variable in variables.items():
        if tuple(variable.shape) != named[path].shape:
            raise ValueError(f"{path} has the shape {variable.shape}, not {named[path].shape}")
    for path, variable in variables.items():
        variable.assign(named[path])


def make_data(rows):
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 1000, rows), rng.integers(0, 200, rows)
    numbers = rng.normal(size=(rows, 3)).astype("float32")
    click = (numbers[:, 0] + 0.01 * item > 1).astype("float32")
    watch_time = (numbers[:, 1] + user % 3).astype("float32")
    labels = np.stack([click, watch_time], axis=1)  # a column for each task
    return {"user": user, "item": item, "numbers": numbers}, labels


def train(rechub, trainers, basic, x, labels):
    """Return a trained PLE of torch-rechub."""
    model = rechub.PLE(features(basic), **SETTINGS)
    columns = {name: torch.from_numpy(column).split(256) for name, column in x.items()}
    loader = [
        ({name: parts[i] for name, parts in columns.items()}, y)
        for i, y in enumerate(torch.from_numpy(labels).split(256))
    ]
    trainer = trainers.MTLTrainer(model, SETTINGS["task_types"])
    for _ in range(2):
        trainer.train_one_epoch(loader)
    return model.eval()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="20,000 by default")
    parser.add_argument("--weights", help="a file that MTLTrainer wrote")
    parser.add_argument("--keep-batch-norms", action="store_true", help="do not merge them")
    args = parser.parse_args()

    basic, rechub, trainers = import_rechub()
    torch.set_num_threads(1)  # on small arrays, threads mainly wait for each other
    keras.utils.set_random_seed(0)
    x, labels = make_data(args.rows)
    if args.weights:
        state = torch.load(args.weights, map_location="cpu", weights_only=True)
        expected = None
    else:
        trained = train(rechub, trainers, basic, x, labels)
        state = trained.state_dict()
        with torch.no_grad():
            expected = trained({name: torch.from_numpy(column) for name, column in x.items()})

    model = build(
        features(basic), **SETTINGS, task_names=TASKS, keep_batch_norms=args.keep_batch_norms
    )
    copy_weights(state, model, TASKS)
    model.save("from_torch_rechub.keras")
    print(f"\n{len(state)} weights copied, model saved to from_torch_rechub.keras")
    if expected is not None:
        predictions = model.predict(x, verbose=0)
        for task, before in zip(TASKS, expected.numpy().T):
            difference = np.abs(predictions[task][:, 0] - before).max()
            print(f"{task}: largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
