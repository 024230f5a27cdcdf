"""Compare intervals of a QuantileHead with those of tuned LightGBM on three tables.

    pip install -e ".[torch,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.quantiles        # from kept scores
    KERAS_BACKEND=torch python -m examples.benchmarks.quantiles --run  # adds what is missing

The tables, their parts, the inputs, and the networks `single` and `bottom` are those of
`against_boosting`; the numbers of a table have a QuantileHead, and its other tasks their heads.
`hedged` is a TabularModel with its defaults. LightGBM has a model for each quantile, with
`objective="quantile"`. Each number has the best of eight settings, by the sum of the losses on the
validation rows of the first seed. All models stop on the validation rows. Quantiles of LightGBM are
sorted. A score is the pinball loss of the test rows, relative to the loss of the quantiles of the
training labels; coverage is the share of test labels between the outer quantiles.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import pandas as pd

import ple_keras as pk

from ._frames import ROOT, compare
from ._tables import make_parser
from .against_boosting import NETWORK, PLAIN, TRAIN, kinds_of, load, to_text

KEPT = ROOT / "docs" / "results" / "quantiles.json"
LEVELS, KIND, SETTINGS = [0.1, 0.5, 0.9], "quantiles", 8
TABLES, MODELS = ["wages", "health", "diamonds"], [PLAIN, "single", "bottom", "hedged"]
Predictions = dict[str, list[np.ndarray]]  # of the validation and the test rows, by task


def pinball(y: np.ndarray, p: np.ndarray) -> float:
    """Return the mean loss over the known labels and the quantiles."""
    is_known = ~np.isnan(y)
    errors = y[is_known, None] - p[is_known]
    return float(np.maximum(np.multiply(LEVELS, errors), np.subtract(LEVELS, 1) * errors).mean())


def relative_loss(kind: str, y: np.ndarray, p: np.ndarray) -> float:
    """Return a loss relative to that of a constant, by which networks stop."""
    if kind != KIND:
        return float(PLAIN_LOSS(kind, y, p))
    constant = np.nanquantile(y, LEVELS)
    return pinball(y, p) / pinball(y, np.tile(constant, (len(y), 1)))


PLAIN_LOSS = compare.relative_loss
compare.relative_loss = relative_loss
compare.HEADS[KIND] = partial(pk.QuantileHead, quantiles=LEVELS, standardize=True)


def boost(data: Any, task: str, seed: int, setting: dict[str, Any]) -> list[np.ndarray]:
    """Return the quantiles of LightGBM for the validation and the test rows."""
    kinds, found = {task: "quantile"}, []
    for level in LEVELS:
        found.append(TRAIN[PLAIN](data, kinds, seed, setting | {"alpha": level})[task])
    return [np.sort(np.stack(parts, axis=1), axis=1) for parts in zip(*found)]


def search(data: Any, task: str) -> dict[str, Any]:
    """Return the best setting of LightGBM on the validation rows of the first seed."""
    default = {name: values[0] for name, values in compare.TREE_CHOICES.items()}
    unused = [] if data.columns.ids else ["cat_smooth"]
    drawn = compare.draw_settings(default, compare.TREE_CHOICES, unused, SETTINGS)
    y = data.y[1][task]
    setting: dict[str, Any] = compare.search(
        drawn, lambda x: pinball(y, boost(data, task, 0, x)[0])
    )[0]
    return setting


def hedge(data: Any, kinds: dict[str, str], seed: int) -> Predictions:
    """Return the predictions of a TabularModel, for the tasks with quantiles."""
    tasks = {t: compare.HEADS[KIND](t) if kind == KIND else kind for t, kind in kinds.items()}
    model = pk.TabularModel(tasks, columns=data.columns, seed=seed)
    model.fit(data.frames[0], validation=data.frames[1], verbose=0)
    frames = [model.predict(each) for each in data.frames[1:]]
    names = {t: [f"{t}: {level}" for level in LEVELS] for t in kinds if kinds[t] == KIND}
    return {t: [each[columns].to_numpy() for each in frames] for t, columns in names.items()}


def fit(model: str, data: Any, kinds: dict[str, str], seed: int, searches: Any) -> Predictions:
    """Return the predictions of a model for the tasks with quantiles."""
    keras.utils.set_random_seed(seed)
    numbers = [task for task, kind in kinds.items() if kind == KIND]
    if model == PLAIN:
        return {task: boost(data, task, seed, searches[task]) for task in numbers}
    if model == "single":
        return {t: TRAIN[model](data, {t: KIND}, seed, NETWORK)[t] for t in numbers}
    return (
        hedge(data, kinds, seed) if model == "hedged" else TRAIN[model](data, kinds, seed, NETWORK)
    )


def run(seeds: Sequence[int], kept: dict[str, Any]) -> None:
    """Train what is not kept. Scores are written after each fit."""
    for table in TABLES:
        for seed in seeds:
            _, data, labels = load(table, seed)
            kinds = {t: KIND if k == "regression" else k for t, k in kinds_of(labels).items()}
            numbers = [task for task, kind in kinds.items() if kind == KIND]
            of_table = kept.setdefault(table, {"settings": {}, "fits": {}})
            for model in MODELS:
                fits, start = of_table["fits"].setdefault(model, {}), time.process_time()
                if str(seed) in fits:
                    continue
                if model == PLAIN and not of_table["settings"]:
                    of_table["settings"] = {task: search(data, task) for task in numbers}
                found = fit(model, data, kinds, seed, of_table["settings"])
                scores = {task: score(data, task, found[task][1]) for task in numbers}
                seconds = round(time.process_time() - start, 1)
                fits[str(seed)] = {"scores": scores, "seconds": seconds}
                KEPT.write_text(json.dumps(kept, indent=1))
                print(table, seed, model, fits[str(seed)], flush=True)


def score(data: Any, task: str, p: np.ndarray) -> list[float]:
    """Return the loss relative to the training quantiles, and the coverage, of test rows."""
    y = data.y[2][task]
    constant = np.nanquantile(data.y[0][task], LEVELS)
    relative = pinball(y, p) / pinball(y, np.tile(constant, (len(y), 1)))
    coverage = ((p[:, 0] <= y) & (y <= p[:, -1]))[~np.isnan(y)].mean()
    return [round(float(relative), 5), round(float(coverage), 4)]


def format_scores(kept: dict[str, Any]) -> str:
    """Return the mean scores over seeds of each number, as "loss (coverage)"."""
    rows = []
    for table, of_table in kept.items():
        for task in of_table["settings"]:
            row = {"": f"{table}: {task}"}
            for model, fits in of_table["fits"].items():
                loss, coverage = np.mean([each["scores"][task] for each in fits.values()], axis=0)
                row[model] = f"{loss:.4f} ({coverage:.1%})"
            rows.append(row)
    return str(to_text(pd.DataFrame(rows)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not kept, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", action="store_true", help="measure what is missing")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds; 3 by default")
    args = parser.parse_args(arguments)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if args.run:
        run(range(args.seeds), kept)
    print(format_scores(kept))


if __name__ == "__main__":
    main()
