"""Write the files of a version: trained models, and their predictions and logs.

    KERAS_BACKEND=torch python -m tests.compat.write_files  # and with jax, tensorflow

The folder is tests/compat/{version}/{backend}. Files of a released version are never written again.
"""

import pickle
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd

import ple_keras as pk
from tests.helpers import QUICK

FOLDER = Path(__file__).parent
ROWS = 12


def hedged():
    """Tables, features by stream, branches, standardized labels, and two optimizers."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time", standardize=True)])
    heads.adapt({task: data()[1][task] for task in heads})
    inputs = {"user": keras.Input((), dtype="int32", name="user"), "x": keras.Input((3,), name="x")}
    table = pk.SparseEmbedding(8, 4)(inputs["user"])
    network = keras.Model(inputs, keras.layers.Concatenate()([table, inputs["x"]]))
    streams = pk.StreamFeatures(heads, network)(inputs)
    features = pk.HedgedBlock(heads, pk.ExpertBlock([4], dropout=0.2))(streams)
    return pk.MultiTaskModel(inputs, heads(features)), pk.table_optimizer("adam")


def ple():
    """Stacked experts, gate dropout and statistics, a product, and learned loss weights."""
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[4], loss_weight=2.0),
            pk.BinaryHead("buy", reduction="label_root"),
            pk.ProductHead("both", of=["click", "buy"]),
            pk.MulticlassHead("kind", num_classes=3),
        ],
        loss_weighting="uncertainty",
    )
    inputs = {"x": keras.Input((3,), name="x")}
    block = pk.PLEBlock(
        2, heads, [4], gate_kwargs={"dropout": 0.2}, enable_gate_weights_metrics=True
    )
    return pk.MultiTaskModel(inputs, heads(block(inputs["x"]))), keras.optimizers.SGD(0.1, 0.9)


def copied():
    """Experts by stream that are layers, one of them frozen, and gates that read a context."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    inputs = {"x": keras.Input((3,), name="x")}
    experts = {"click": [4], "time": keras.layers.Dense(4, "relu"), "shared": [6, 4]}
    block = pk.CGCBlock(
        heads, experts, gate_reads="both", stack_experts=False, isolate_task_experts=True
    )
    features = block(inputs["x"], gate_context=inputs["x"][:, :1])
    block.get_expert("shared/expert_0").trainable = False
    features = pk.SequentialBlock([pk.MMoEBlock(heads, [4], num_experts=2)])(features)
    return pk.MultiTaskModel(inputs, heads(features)), "adam"


def counts():
    """A hedged count, standardized, a product, own features of another width."""
    heads = pk.TaskHeads(
        [
            pk.CountHead("votes", standardize=True),
            pk.BinaryHead("click"),
            pk.BinaryHead("buy"),
            pk.ProductHead("both", of=["click", "buy"]),
        ]
    )
    heads.adapt({task: data()[1][task] for task in heads})
    inputs = {"user": keras.Input((), dtype="int32", name="user")}
    streams = dict.fromkeys(heads.task_names, 2) | {"shared": 4}
    tables = {stream: pk.SparseEmbedding(8, n)(inputs["user"]) for stream, n in streams.items()}
    features = pk.HedgedBlock(heads, [4])(tables)
    return pk.MultiTaskModel(inputs, heads(features)), pk.table_optimizer("adam")


def networks():
    """Feature networks with embedded numbers, which a HedgedBlock copies."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy")])
    inputs = {"user": keras.Input((), dtype="int32", name="user"), "x": keras.Input((3,), name="x")}
    networks = {}
    for stream, width in {"click": 2, "buy": 2, "shared": 4}.items():
        table = pk.SparseEmbedding(8, width)(inputs["user"])
        numbers = pk.NumberEmbedding(2, bin_boundaries=[[-1, 0, 1]] * 3)(inputs["x"])
        networks[stream] = keras.Model(inputs, keras.layers.Concatenate()([table, numbers]))
    features = pk.HedgedBlock(heads, [4], features=networks)(inputs)
    return pk.MultiTaskModel(inputs, heads(features)), pk.table_optimizer("adam")


def amounts():
    """A network of Columns, packed, and a hedged amount of a standardized unit."""
    frame = pd.DataFrame(
        {"user": np.arange(24) % 4, "age": np.arange(24.0), "word": ["a b", "b c"] * 12}
    )
    columns = pk.Columns(["user"], ["age"], texts={"word": ("word", 2)}).fit(frame, spare_rows=0.5)
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.TweedieHead("spent", standardize=True)])
    heads.adapt({task: data()[1][task] for task in heads})
    network = columns.network(4, packed=True)
    features = pk.HedgedBlock(heads, [4], features=network)(network.input)
    return pk.MultiTaskModel(network.input, heads(features)), pk.table_optimizer("adam")


def targets():
    """Hedged quantiles, standardized, and a matrix of labels with holes."""
    heads = pk.TaskHeads(
        [
            pk.QuantileHead("time", [0.1, 0.5, 0.9], standardize=True),
            pk.BinaryHead("assays", targets=["a", "b", "c"], reduction="by_target"),
        ]
    )
    heads.adapt({task: data()[1][task] for task in heads})
    inputs = {"x": keras.Input((3,), name="x")}
    return pk.MultiTaskModel(inputs, heads(pk.HedgedBlock(heads, [4])(inputs["x"]))), "adam"


MODELS = {make.__name__: make for make in (hedged, ple, copied, counts, networks, amounts, targets)}


def data():
    """Return inputs and labels, of which some are missing."""
    rng = np.random.default_rng(0)
    x = {"user": np.arange(ROWS, dtype="int32") % 8, "x": rng.normal(size=(ROWS, 3))}
    codes = np.arange(2 * ROWS, dtype="int32").reshape(ROWS, 2) % 5
    x |= {"ids": codes[:, :1], "word": codes, "numbers": x["x"][:, :1]}  # of `amounts`
    y = {"click": np.arange(ROWS) % 2.0, "time": rng.normal(20, 5, ROWS)}
    y |= {
        "buy": np.arange(ROWS) % 3 == 1,
        "both": np.arange(ROWS) % 4 == 1,
        "kind": np.arange(ROWS) % 3,
        "votes": np.arange(ROWS) % 5,
        "spent": np.arange(ROWS) % 3 * 7.0,
    }
    y = {task: np.where(np.arange(ROWS) < 9, labels, np.nan) for task, labels in y.items()}
    y["assays"] = np.where(codes[:, :1] == [0, 2, 4], np.nan, rng.integers(0, 2, (ROWS, 3)))
    return x, y


def of_model(model):
    """Return the inputs and labels for a model."""
    x, y = data()
    heads = next(layer for layer in model.layers if isinstance(layer, pk.TaskHeads))
    return {name: x[name] for name in model.input}, {task: y[task] for task in heads.trained_tasks}


def step(model):
    """Return the predictions of a model, then its logs and predictions after one more step."""
    x, y = of_model(model)
    model.run_eagerly = QUICK["run_eagerly"]
    keras.utils.set_random_seed(0)  # dropout without a seed draws from PyTorch's generator
    found = {f"before/{task}": p for task, p in model.predict(x, verbose=0).items()}
    logs = model.train_on_batch(x, y, return_dict=True)
    found |= {f"logs/{key}": value for key, value in logs.items()}
    return found | {f"after/{task}": p for task, p in model.predict(x, verbose=0).items()}


def frame():
    """Return a frame with ids, numbers, texts, and labels of which some are missing."""
    rng, rows = np.random.default_rng(0), np.arange(600)
    age = rng.normal(40, 10, len(rows))
    rating = 3 + (age - 40) / 20 + rows % 7 / 7 + 0.2 * rng.normal(size=len(rows))
    labels = {"like": np.where(rows % 5, "no", None), "rating": rating}
    labels["like"] = np.where((rating > 3.5) & (rows % 5 > 0), "yes", labels["like"])
    return pd.DataFrame({"user": rows % 7, "age": age, "word": ["a b", "b c"] * 300, **labels})


def step_tabular(folder):
    """Return the predictions of a TabularModel, then its logs and predictions after a step."""
    model, rows = pk.TabularModel.load(folder), frame()
    model.keras_model.run_eagerly = QUICK["run_eagerly"]
    found = {f"before/{task}": p.to_numpy() for task, p in model.predict(rows).items()}
    x = model.columns.transform(rows, packed=True)
    keras.utils.set_random_seed(0)
    y = {"like": (rows["like"] == "yes").to_numpy(float), "rating": rows["rating"].to_numpy()}
    logs = model.keras_model.train_on_batch(x, y, return_dict=True)
    found |= {f"logs/{key}": value for key, value in logs.items()}
    return found | {f"after/{task}": p.to_numpy() for task, p in model.predict(rows).items()}


def main():
    folder = FOLDER / pk.__version__ / keras.backend.backend()
    if folder.exists():
        sys.exit(f"{folder} exists. Files of a released version are never written again.")
    folder.mkdir(parents=True)
    for name, make in MODELS.items():
        keras.utils.set_random_seed(0)
        model, optimizer = make()
        x, y = of_model(model)
        model.compile(optimizer)
        model.fit(x, y, epochs=3, verbose=0)
        model.save(folder / f"{name}.keras")
        if make is hedged:
            hedge = pk.FitHedge((x, y))
            model.fit(x, y, epochs=2, callbacks=[hedge], verbose=0)
            (folder / "kept.pickle").write_bytes(pickle.dumps(hedge.kept))
        np.savez(folder / f"{name}.npz", **step(keras.models.load_model(folder / f"{name}.keras")))
    tasks = {"like": "binary", "rating": "regression"}
    small = {"embedding_dim": 2, "units": [4], "tower": None, "seed": 0}
    model = pk.TabularModel(tasks, ["user"], **small).fit(frame(), epochs=3, verbose=0)
    model.save(folder / "tabular")
    np.savez(folder / "tabular.npz", **step_tabular(folder / "tabular"))


if __name__ == "__main__":
    main()
