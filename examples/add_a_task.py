"""Add a third task to a model that was trained on two tasks.

    pip install -e ".[jax,flights]"
    KERAS_BACKEND=jax python examples/add_a_task.py

Takes two minutes on two cores. On the flights from New York in 2013, a PLE learns which flights are
canceled and which leave over 15 minutes late. Then a third task is added: the arrival delay in
hours. The script builds a model with three tasks, copies the trained weights with
`transfer_weights`, and continues training.

After each of these steps, it prints the loss and the AUC of the first two tasks on held-out weeks.
It also prints the largest change in their predictions caused by the transfer. With one level, there
is no change, because no gate of the old tasks reads the new experts. With two levels, the shared
gate of the first level gives the new experts some weight, until training adapts to it.
"""

import argparse

import keras
import numpy as np
import pandas as pd
from _flights import CATEGORIES, NUMERIC, load_flights

import ple_keras as pk

HEADS = {
    "canceled": pk.BinaryHead,
    "departed_late": pk.BinaryHead,
    "arrival_delay": pk.RegressionHead,
}
OLD = ["canceled", "departed_late"]


def build(tasks, levels, num_codes):
    """Return a compiled PLE for some of the tasks.

    `transfer_weights` matches layers by name, so the embedding and the block have names.
    """
    codes = keras.Input((len(CATEGORIES),), dtype="int32", name="codes")
    numbers = keras.Input((len(NUMERIC),), name="numbers")
    embedding = keras.layers.Embedding(num_codes, 8, name="embedding")
    features = keras.layers.Concatenate()([keras.layers.Flatten()(embedding(codes)), numbers])
    heads = pk.TaskHeads([HEADS[task](task, tower=[32]) for task in tasks])
    ple = pk.PLEBlock(levels, heads, pk.ExpertBlock([64], dropout=0.2), name="ple")
    model = pk.MultiTaskModel({"codes": codes, "numbers": numbers}, heads(ple(features)))
    model.compile(keras.optimizers.Adam(2e-3))
    return model


def print_epoch(epoch, logs):
    losses = (f"{key} {value:.4f}" for key, value in logs.items() if key.endswith("loss"))
    print(f"epoch {epoch + 1}: {', '.join(losses)}", flush=True)


def fit(model, tasks, rows, epochs):
    x, y = rows
    labels = {task: y[task] for task in tasks}
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=print_epoch)]
    model.fit(x, labels, batch_size=1024, epochs=epochs, callbacks=callbacks, verbose=0)


def score(model, tasks, rows):
    """Return the losses and AUCs of the old tasks."""
    x, y = rows
    labels = {task: y[task] for task in tasks}
    logs = model.evaluate(x, labels, batch_size=8192, verbose=0, return_dict=True)
    keys = [f"{task}_{key}" for task in OLD for key in ("binary_crossentropy", "auc")]
    return {key: logs[key] for key in keys}


def add_task(levels, train, test, num_codes, epochs):
    """Train on two tasks, add the third, and continue. Print the scores of the old tasks."""
    keras.utils.set_random_seed(0)
    scores = {}
    smaller = build(OLD, levels, num_codes)
    fit(smaller, OLD, train, epochs)
    scores["two tasks, trained"] = score(smaller, OLD, test)

    larger = build([*HEADS], levels, num_codes)
    print(pk.transfer_weights(smaller, larger), flush=True)
    scores["third task added"] = score(larger, HEADS, test)
    before, after = (
        model.predict(test[0], batch_size=8192, verbose=0) for model in (smaller, larger)
    )
    change = max(np.abs(after[task] - before[task]).max() for task in OLD)

    fit(larger, HEADS, train, epochs)
    scores["three tasks, trained"] = score(larger, HEADS, test)
    print(f"\n{pd.DataFrame(scores).round(5).to_string()}")
    print(f"largest change in a prediction by the transfer: {change:.2e}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="training and test flights each; all by default")
    parser.add_argument("--epochs", type=int, default=3, help="of each training run; 3 by default")
    args = parser.parse_args()

    train, test, num_codes = load_flights(args.rows)
    for levels in (1, 2):
        print(f"\nlevels: {levels}", flush=True)
        add_task(levels, train, test, num_codes, args.epochs)


if __name__ == "__main__":
    main()
