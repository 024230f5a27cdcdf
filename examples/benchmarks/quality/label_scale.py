"""Measure what the unit of a rating does to a click that is trained with it.

    pip install -e ".[torch,examples]"
    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python examples/benchmarks/quality/label_scale.py

A shared bottom learns a click and a rating from 20 random features. The ratings have the size 1,
1,000 or 0.001, and the head of the rating is as by default, or has `standardize=True`. Takes about
two minutes on one core.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

import keras
import numpy as np
from _tables import align_columns
from sklearn.metrics import roc_auc_score

import ple_keras as pk

SIZES = (1.0, 1000.0, 0.001)
SEEDS = range(3)
ROWS, EPOCHS = 8000, 10


def draw(seed: int, size: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw features, clicks and ratings. Half of the rows have no rating."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * ROWS, 20)).astype("float32")
    hidden = np.tanh(x @ rng.normal(size=(20, 6)) / 2)
    logit = hidden @ rng.normal(size=(6, 2)) / 2
    click = rng.uniform(size=len(x)) < 1 / (1 + np.exp(-2 * logit[:, 0]))
    rating = size * (3 + logit[:, 1] + 0.3 * rng.normal(size=len(x)))
    rating[rng.uniform(size=len(x)) < 0.5] = np.nan
    return x, {"click": click.astype("float32"), "rating": rating}


def train(seed: int, size: float, standardize: bool) -> tuple[float, float]:
    """Return the AUC of the click and the RMSE of the rating, divided by the size."""
    x, y = draw(seed, size)
    keras.utils.set_random_seed(seed)
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", [16], metrics=[]),
            pk.RegressionHead("rating", [16], metrics=[], standardize=standardize),
        ]
    )
    train_labels = {task: labels[:ROWS] for task, labels in y.items()}
    heads.adapt(train_labels)
    inputs = keras.Input((20,))
    model = pk.MultiTaskModel(inputs, heads(pk.SharedBottomBlock(heads, [64])(inputs)))
    model.compile(keras.optimizers.Adam(0.005))
    model.fit(x[:ROWS], train_labels, batch_size=256, epochs=EPOCHS, verbose=0)
    predictions = model.predict(x[ROWS:], batch_size=ROWS, verbose=0)
    gaps = np.ravel(predictions["rating"]) - y["rating"][ROWS:]
    auc = roc_auc_score(y["click"][ROWS:], predictions["click"])
    return float(auc), float(np.sqrt(np.nanmean(gaps**2)) / size)


def main() -> None:
    """Print the means over the seeds, and the differences to standardized ratings of size 1."""
    cases = [(standardize, size) for standardize in (True, False) for size in SIZES]
    results = {case: np.array([train(seed, case[1], case[0]) for seed in SEEDS]) for case in cases}
    rows = [["standardize", "size", "AUC of click", "difference", "RMSE / size", "difference"]]
    for (standardize, size), values in results.items():
        difference = values - results[cases[0]]
        spread = difference.std(axis=0, ddof=1)
        row = [str(standardize), f"{size:g}"]
        for mean, gap, deviation in zip(values.mean(axis=0), difference.mean(axis=0), spread):
            row += [f"{mean:.4f}", f"{gap:+.4f} ± {deviation:.4f}"]
        rows.append(row)
    print(align_columns(rows))


if __name__ == "__main__":
    main()
