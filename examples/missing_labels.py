"""Train a PLE on tasks with missing labels: flights from New York in 2013.

    pip install -e ".[jax,flights]"
    KERAS_BACKEND=jax python examples/missing_labels.py

Takes a minute on two cores. The tasks are whether a flight is canceled, whether it leaves over 15
minutes late, and its arrival delay in hours. A canceled flight never left and never arrived, so two
of its labels are missing (NaN). `--label-rate` hides most labels of the second task as well.

The script trains one PLE twice: with missing labels, which the heads exclude from losses and
metrics, and with 0 instead, as in many tables from joins and logs. It prints the metrics on the
flights of held-out weeks. With 0 for missing labels, the predicted share of late flights is far too
low.
"""

import argparse

import keras
import numpy as np
from _flights import CATEGORIES, NUMERIC, load_flights

import ple_keras as pk


def build(num_codes):
    """Return a compiled PLE. NaN labels are missing, without any argument."""
    codes = keras.Input((len(CATEGORIES),), dtype="int32", name="codes")
    numbers = keras.Input((len(NUMERIC),), name="numbers")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(num_codes, 8)(codes))
    features = keras.layers.Dropout(0.2)(keras.layers.Concatenate()([embedded, numbers]))
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("canceled", tower=[32]),
            pk.BinaryHead("departed_late", tower=[32]),
            pk.RegressionHead("arrival_delay", tower=[32]),
        ]
    )
    ple = pk.PLEBlock(2, heads, pk.ExpertBlock([64], dropout=0.2), name="ple")
    model = pk.MultiTaskModel({"codes": codes, "numbers": numbers}, heads(ple(features)))
    model.compile(keras.optimizers.Adam(2e-3))
    return model, heads


def train_and_score(train, test, num_codes, epochs):
    """Return the metrics of a new model on the test flights."""
    (x, y), (x_test, y_test) = train, test
    keras.utils.set_random_seed(0)
    model, heads = build(num_codes)
    heads.check_labels(y)  # shapes, dtypes and values, before training
    model.fit(x, y, batch_size=1024, epochs=epochs, verbose=2)
    metrics = model.evaluate(x_test, y_test, batch_size=8192, verbose=0, return_dict=True)
    late = model.predict(x_test, batch_size=8192, verbose=0)["departed_late"]
    known = ~np.isnan(y_test["departed_late"])
    return {
        "canceled, AUC": metrics["canceled_auc"],
        "departed_late, AUC": metrics["departed_late_auc"],
        "departed_late, mean prediction": float(late[known].mean()),
        "arrival_delay, RMSE in hours": metrics["arrival_delay_rmse"],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="training and test flights each; all by default")
    parser.add_argument("--epochs", type=int, default=4, help="4 by default")
    parser.add_argument("--label-rate", type=float, default=0.1, help="share of labels kept; 0.1")
    args = parser.parse_args()

    (x, y), test, num_codes = load_flights(args.rows)
    hidden = np.random.default_rng(1).random(len(y["departed_late"])) >= args.label_rate
    y["departed_late"] = np.where(hidden, np.nan, y["departed_late"]).astype("float32")
    for task, labels in y.items():
        print(f"{task}: {np.mean(~np.isnan(labels)):.1%} of {len(labels):,} flights have a label")

    scores = {}
    for name, labels in (
        ("excluded", y),
        ("taken for 0", {task: np.nan_to_num(values) for task, values in y.items()}),
    ):
        print(f"\nTraining with missing labels {name}:", flush=True)
        scores[name] = train_and_score((x, labels), test, num_codes, args.epochs)

    print(f"\n{'missing labels are':32} " + " ".join(f"{name:>12}" for name in scores))
    for line in scores["excluded"]:
        print(f"{line:32} " + " ".join(f"{of_run[line]:12.4f}" for of_run in scores.values()))
    print(f"{'departed_late, observed share':32} {np.nanmean(test[1]['departed_late']):12.4f}")


if __name__ == "__main__":
    main()
