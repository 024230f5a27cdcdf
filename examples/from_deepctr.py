"""Copy a trained PLE, MMOE or SharedBottom from DeepCTR to ple_keras, and compare predictions.

    pip install -e ".[tensorflow]" deepctr
    KERAS_BACKEND=tensorflow python examples/from_deepctr.py

Takes a minute on two cores. Trains DeepCTR's PLE on random data, builds the equivalent ple_keras
model, copies all weights, prints the largest difference between the predictions, and saves the
model. The file loads on every backend, without DeepCTR.

For your own model, replace `columns` and SETTINGS with its arguments, and pass its weights to
`copy_weights`. If Keras 2 wrote them with `save_weights` or `save`, pass the file:

    KERAS_BACKEND=tensorflow python examples/from_deepctr.py --weights trained.h5

For a Keras 3 file (`.weights.h5`), build DeepCTR's model, predict a few rows, call `load_weights`,
and pass `read_weights(trained)` to `copy_weights`.
"""

import argparse
import re
from collections import defaultdict
from threading import Thread
from unittest import mock

import h5py
import keras
import numpy as np

import ple_keras as pk

SETTINGS = {  # arguments of deepctr.models.PLE
    "shared_expert_num": 1,
    "specific_expert_num": 2,
    "num_levels": 2,
    "expert_dnn_hidden_units": (32, 16),
    "tower_dnn_hidden_units": (8,),
    "gate_dnn_hidden_units": (8,),
    "dnn_use_bn": True,
    "task_types": ("binary", "regression"),
    "task_names": ("click", "watch_time"),
}
# Layer names of DeepCTR's PLE, MMOE and SharedBottom, and of the equivalent model.
LAYERS = {
    r"level_(\d+)_task_([^/]+)_expert_specific_(\d+)/": r"ple/cgc_block_\1/experts/expert-\2-\3/",
    r"level_(\d+)_expert_shared_(\d+)/": r"ple/cgc_block_\1/experts/expert-shared-\2/",
    r"level_(\d+)_gate_softmax_(?:specific_)?([^/]+)/": r"ple/cgc_block_\1/gate-\2/projection/",
    r"level_(\d+)_gate_(?:specific_)?([^/]+)/": r"ple/cgc_block_\1/gate-\2/block/",
    r"expert_(\d+)/": r"mmoe/experts/expert-shared-\1/",
    r"gate_softmax_([^/]+)/": r"mmoe/gate-\1/projection/",
    r"gate_([^/]+)/": r"mmoe/gate-\1/block/",
    r"dnn(?:_\d+)?/": r"shared_bottom/bottom/",
    r"tower_([^/]+)/": r"heads/\1_head/tower/",
    r"([^/]+)/global_bias": r"heads/\1_head/projection/bias",
}


def import_deepctr():
    """Import two modules of DeepCTR, without its thread that queries PyPI."""
    with mock.patch.object(Thread, "start"):
        from deepctr import feature_column, models
    return feature_column, models


def columns(feature_column):
    """Return the columns of the model, as DeepCTR's objects."""
    return [
        feature_column.SparseFeat("user", vocabulary_size=1000, embedding_dim=8),
        feature_column.SparseFeat("item", vocabulary_size=200, embedding_dim=4),
        feature_column.DenseFeat("numbers", dimension=3),
    ]


def build(
    columns,
    shared_expert_num=1,
    specific_expert_num=1,
    num_levels=2,
    expert_dnn_hidden_units=(256,),
    tower_dnn_hidden_units=(64,),
    gate_dnn_hidden_units=(),
    l2_reg_embedding=0.00001,
    l2_reg_dnn=0,
    seed=1024,  # unused, since all weights are copied
    dnn_dropout=0,
    dnn_activation="relu",
    dnn_use_bn=False,
    task_types=("binary", "binary"),
    task_names=("ctr", "ctcvr"),
    num_experts=None,
    bottom_dnn_hidden_units=None,
):
    """Return the ple_keras model that equals DeepCTR's `PLE` with the same arguments.

    With `num_experts`, it equals `MMOE`, and with `bottom_dnn_hidden_units`, `SharedBottom`.
    """

    def dnn(units):
        if not units:
            return None
        return pk.ExpertBlock(
            units,
            dnn_activation,
            dnn_dropout,
            normalization="batch" if dnn_use_bn else None,
            kernel_regularizer=keras.regularizers.L2(l2_reg_dnn) if l2_reg_dnn else None,
        )

    def head(task, task_type):
        make = {"binary": pk.BinaryHead, "regression": pk.RegressionHead}[task_type]
        return make(task, tower=dnn(tower_dnn_hidden_units))

    heads = pk.TaskHeads(list(map(head, task_names, task_types)), name="heads")
    expert, gate_block = dnn(expert_dnn_hidden_units), dnn(gate_dnn_hidden_units)
    if bottom_dnn_hidden_units:
        bottom = dnn(bottom_dnn_hidden_units)
        block = pk.SharedBottomBlock(heads, bottom, name="shared_bottom")
    elif num_experts:
        block = pk.MMoEBlock(heads, expert, num_experts, gate_block, name="mmoe")
    else:
        counts = specific_expert_num, shared_expert_num
        block = pk.PLEBlock(num_levels, heads, expert, *counts, gate_block, name="ple")
    inputs, features = encode(columns, l2_reg_embedding)
    return pk.MultiTaskModel(inputs, heads(block(features)))


def encode(columns, l2_reg_embedding):
    """Return an input for each column, and all features: first SparseFeat, then DenseFeat."""
    sparse = [column for column in columns if hasattr(column, "embedding_dim")]
    dense = [column for column in columns if column not in sparse]
    for column in columns:
        options = ("use_hash", "vocabulary_path", "maxlen", "transform_fn")
        found = [option for option in options if getattr(column, option, None)]
        if found:
            raise ValueError(f"{column.name} has {found}: add layers for it by hand.")
    groups = list(dict.fromkeys(column.group_name for column in sparse))
    sparse.sort(key=lambda column: groups.index(column.group_name))  # as DeepCTR does
    regularizer = keras.regularizers.L2(l2_reg_embedding) if l2_reg_embedding else None
    tables = {
        column.embedding_name: keras.layers.Embedding(
            column.vocabulary_size,
            column.embedding_dim,
            embeddings_regularizer=regularizer,
            name=f"sparse_emb_{column.embedding_name}",
        )
        for column in sparse
    }
    inputs = {
        column.name: keras.Input((1,), dtype=column.dtype, name=column.name) for column in sparse
    }
    inputs |= {column.name: keras.Input((column.dimension,), name=column.name) for column in dense}
    rows = [tables[column.embedding_name](inputs[column.name]) for column in sparse]
    parts = [keras.layers.Flatten()(row) for row in rows] + [inputs[c.name] for c in dense]
    return inputs, parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts)


def read_weights(model):
    """Return the weights of a DeepCTR model by name."""
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


def read_h5(path):
    """Read the weights in a Keras 2 file by name, without DeepCTR."""
    with h5py.File(path) as file:
        layers = file.get("model_weights", file)  # a whole model, or only weights
        if "layer_names" not in layers.attrs:
            raise ValueError(f"{path} must be a Keras 2 file. For a Keras 3 file, see --help.")
        found = {
            layer: [as_text(name) for name in layers[layer].attrs.get("weight_names", ())]
            for layer in layers
        }
        return {
            name.removesuffix(":0"): layers[layer][name][()]
            for layer, names in found.items()
            for name in names
        }


def as_text(name):
    """Decode a name, which older versions of h5py wrote as bytes."""
    return name.decode() if isinstance(name, bytes) else name


def copy_weights(weights, model, task_names):
    """Copy the weights of a DeepCTR model, arrays by name, to the equivalent model.

    `task_names` are in the order of DeepCTR's argument, since its output layers have no task names.
    Raises ValueError before copying anything if a weight has no counterpart or a different shape.
    """
    named = rename(weights, task_names)
    for level in find_levels(model):
        stack_experts(named, level)
        for gate, experts in level.gate_experts.items():
            of_gate = f"{level.path}/gate-{gate}/"
            if len(experts) == 1:  # for one expert, DeepCTR has gate weights, a Gate none
                named = {n: array for n, array in named.items() if not n.startswith(of_gate)}
    assign(model, named)


def find_levels(model):
    """Return the levels of a PLE, the block of an MMoE, or no level for a shared bottom."""
    blocks = [layer for layer in model.layers if layer.name in ("ple", "mmoe")]
    return [level for block in blocks for level in (block if block.name == "ple" else [block])]


def number(name):
    """Return the number that Keras appended to a name, such as 2 for dense_2, or 0."""
    return int((re.findall(r"_(\d+)$", name) or [0])[0])


def rename(weights, task_names):
    """Return the weights by their names in the equivalent model, with one layer per expert."""
    norms, dense = defaultdict(set), set()
    for name in weights:
        layer, _, norm = name.rpartition("/")[0].partition("/")
        if norm:
            norms[layer].add(norm)
        if re.fullmatch(r"dense(_\d+)?", layer):
            dense.add(layer)
    numbered = {  # Keras numbers these layers across all models
        f"{layer}/{norm}/": f"{layer}/normalization_{step}/"
        for layer, found in norms.items()
        for step, norm in enumerate(sorted(found, key=number))
    }
    for task, layer in zip(task_names, sorted(dense, key=number)):
        numbered[f"{layer}/"] = f"heads/{task}_head/projection/"

    named = {}
    for name, array in weights.items():
        layer, _, rest = name.rpartition("/")
        name = numbered.get(f"{layer}/", f"{layer}/") + rest
        for pattern, replacement in LAYERS.items():
            name, found = re.subn(f"^{pattern}", replacement, name)
            if found:
                break
        named[re.sub(r"/(kernel|bias)(\d+)$", r"/dense_\2/\1", name)] = array
    return named


def stack_experts(named, level):
    """Replace the kernels and biases of a level's experts with stacks in the level's order."""
    experts = [
        f"{level.path}/experts/expert-{name.replace('/expert_', '-')}"
        for name in level.expert_names
    ]
    for name in [name for name in named if name.startswith(f"{experts[0]}/dense_")]:
        step, kind = name.removeprefix(f"{experts[0]}/dense_").split("/")
        parts = [f"{expert}/dense_{step}/{kind}" for expert in experts]
        if named.keys() >= set(parts):
            stack = np.stack([named.pop(part) for part in parts])
            named[f"{level.path}/experts/{kind}_{step}"] = stack


def assign(model, named):
    """Check all names and shapes, then assign arrays to all weights of a model by path."""
    variables = {
        variable.path: variable
        for variable in model.weights
        if variable.name != "loss_multipliers"  # the current loss weights of the tasks
    }
    problems = {
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
    return {"user": user, "item": item, "numbers": numbers}, [click, watch_time]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="20,000 by default")
    parser.add_argument("--weights", help="a Keras 2 file with the weights of the model")
    args = parser.parse_args()

    feature_column, models = import_deepctr()
    keras.utils.set_random_seed(0)
    task_names = SETTINGS["task_names"]
    x, y = make_data(args.rows)
    if args.weights:
        weights, expected = read_h5(args.weights), None
    else:
        trained = models.PLE(columns(feature_column), **SETTINGS)
        trained.compile("adam", ["binary_crossentropy", "mse"], jit_compile=False)
        trained.fit(x, y, batch_size=256, epochs=2, verbose=2)
        weights, expected = read_weights(trained), trained.predict(x, verbose=0)

    model = build(columns(feature_column), **SETTINGS)
    copy_weights(weights, model, task_names)
    model.save("from_deepctr.keras")
    print(f"\n{len(weights)} weights copied, model saved to from_deepctr.keras")
    if expected:
        predictions = model.predict(x, verbose=0)
        for task, before in zip(task_names, expected):
            print(f"{task}: largest difference {np.abs(predictions[task] - before).max():.1e}")


if __name__ == "__main__":
    main()
