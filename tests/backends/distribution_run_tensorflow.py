"""Training on 1, 2 and 4 replicas: `python -m tests.backends.distribution_run_tensorflow FOLDER`.

Writes FOLDER/figures.json and the models of all runs.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import ple_keras as pk
from tests.backends.distribution_run import (
    BATCH,
    data,
    fit_with_callbacks,
    hedged_model,
    predictions,
    tracked_ple,
    write,
)
from tests.optimizers import tables

DEVICES = [f"CPU:{i}" for i in range(4)]


def strategies():
    """Return strategies of two and of four replicas.

    The collectives of a process keep the size of their first use.
    """
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in DEVICES]
    )
    to_one = tf.distribute.ReductionToOneDevice()
    return (
        tf.distribute.MirroredStrategy(DEVICES[:2]),
        tf.distribute.MirroredStrategy(DEVICES, cross_device_ops=to_one),
    )


def scope(strategy):
    return strategy.scope() if strategy else nullcontext()


def run(strategy, folder):
    """Return all figures of a training run whose losses divide by the batch size."""
    with scope(strategy):
        model = tracked_ple(reduction="sum_over_batch_size")
    figures = {
        "logs": fit_with_callbacks(model, folder),
        "predictions": predictions(model),
        "report": pk.gate_report(model, data()[0]).to_dict(),
    }
    if strategy:
        figures["loss_variables"] = {
            variable.name: [copy.numpy().tolist() for copy in variable.value.values]
            for variable in model.get_layer("heads").variables
            if variable.name in ("log_variances", "loss_multipliers")
        }
    return figures


def evaluate_in_parts(strategy, parts):
    """Evaluate a batch, split into parts.

    The losses are means over labeled examples, and the gates have a balance loss.
    """
    with scope(strategy):
        model = tracked_ple(loss_weighting=None, balance=0.1)
    x, y = data(1)
    size = BATCH // parts
    return [
        model.evaluate(
            x[start : start + size],
            {task: labels[start : start + size] for task, labels in y.items()},
            batch_size=size,
            verbose=0,
            return_dict=True,
        )
        for start in range(0, BATCH, size)
    ]


def observe_and_return_error(strategy, observe):
    """Return the error message of an observation in the strategy's scope."""
    with strategy.scope():
        model = tracked_ple()
        try:
            observe(model, *data())
        except ValueError as error:
            return str(error)


def train_tables(strategy):
    """Return the weights of a model with embedding tables."""
    with scope(strategy):
        model = tables.build(pk.table_optimizer(), run_eagerly=False)
    return tables.fit_labeled(model)


def train_hedged(strategy):
    """Return the logs and the weights of a model with branches. No label is missing."""
    with scope(strategy):
        model = hedged_model()
    x, y = data()
    y = {task: np.nan_to_num(labels) for task, labels in y.items()}
    options = {"callbacks": [pk.FitHedge((x, y))], "shuffle": False, "verbose": 0}
    logs = model.fit(x, y, batch_size=BATCH, epochs=2, **options).history
    logs = {key: logs[key] for key in logs if key == "loss" or key.startswith("hedge/")}
    return {"logs": logs, "weights": [w.tolist() for w in model.get_weights()]}


def main(folder):
    two, four = strategies()
    observers = [
        pk.task_report,
        lambda model, x, y: pk.gate_report(model, x),
        lambda model, x, y: pk.gate_weights(model, x),
        pk.fit_hedge,
    ]
    figures = {
        "one": run(None, Path(folder) / "one"),
        "two": run(two, Path(folder) / "two"),
        "whole": evaluate_in_parts(None, 1),
        "quarters": evaluate_in_parts(None, 4),
        "four": evaluate_in_parts(four, 1),
        "tables": [train_tables(strategy) for strategy in (None, two)],
        "hedged": [train_hedged(strategy) for strategy in (None, two)],
        "refusals": [observe_and_return_error(two, observe) for observe in observers],
    }
    write(figures)


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    main(*sys.argv[1:])
