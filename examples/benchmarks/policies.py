"""Compare hedged branches with LightGBM on generated policies with exposure and weights.

    KERAS_BACKEND=torch python -m examples.benchmarks.policies  # with ".[boosting]"

A policy has a driver, a region, a vehicle and an exposure in years. The tasks are the number of
claims in a year (weighted with the exposure), the amount of a claim (with the number of claims, and
without a label if there is none), and the amount in a year (with the exposure). Their deviances are
those of Poisson, gamma and Tweedie distributions (p = 1.5), on 20,000 test rows with the same
weights, and "true" has the expected values that generated the labels.

LightGBM learns each task alone, with the objectives poisson, gamma and tweedie, and the best of 12
settings by the deviance of 2,000 rows, at which it also stops. Hedged branches have the sizes of
TabularModel, and stop on the same rows. Another 2,000 rows, which are new to both, fit the mixture
of both (`mix_predictions`). The table has means over three seeds, with new rows for each, and the
standard error of the difference from LightGBM. The CPU time is 0.17 hours.
"""

import warnings
from typing import Any

import keras
import lightgbm
import numpy as np
import pandas as pd
from sklearn.metrics import mean_tweedie_deviance

import ple_keras as pk

from ._tables import align_columns, make_parser

PARTS = {"train": 8000, "stop": 2000, "mix": 2000, "test": 20_000}
TASKS = {"frequency": ("poisson", 1.0), "severity": ("gamma", 2.0), "premium": ("tweedie", 1.5)}
KINDS = {"frequency": "count", "severity": "amount", "premium": "amount"}  # of the mixture
IDS, NUMBERS = ["region", "vehicle"], ["age", "power", "bonus", "value"]
SETTINGS = 12
CHOICES = {
    "learning_rate": [0.02, 0.05, 0.1],
    "num_leaves": [7, 15, 31, 63],
    "min_data_in_leaf": [5, 20, 50, 100],
    "feature_fraction": [0.5, 0.75, 1.0],
    "lambda_l2": [0.0, 1.0, 10.0],
}

Arrays = dict[str, np.ndarray]
Rows = tuple[pd.DataFrame, Arrays, Arrays, Arrays]  # columns, labels, weights, expected values


def make_rows(seed: int) -> dict[str, Rows]:
    """Return the rows of each part."""
    rng, size = np.random.default_rng(seed), sum(PARTS.values())
    frame = pd.DataFrame({name: rng.integers(0, 40, size) for name in IDS})
    frame = frame.assign(**{name: rng.normal(size=size) for name in NUMBERS})
    region, vehicle = rng.normal(0, 0.4, (2, 40))
    age, power = frame["age"].to_numpy(), frame["power"].to_numpy()
    risk = region[frame["region"]] + 0.4 * np.abs(age) - 0.3 * frame["bonus"].to_numpy()
    rate = 0.2 * np.exp(risk + 0.3 * power * (age < 0))
    size_of = vehicle[frame["vehicle"]] + 0.4 * frame["value"].to_numpy() + 0.3 * risk
    amount = 1000 * np.exp(size_of)
    exposure = rng.uniform(0.05, 1.0, size)
    claims = rng.poisson(rate * exposure)
    total = rng.gamma(2 * np.maximum(claims, 1), amount / 2) * (claims > 0)
    y = {
        "frequency": claims / exposure,
        "severity": np.where(claims > 0, total / np.maximum(claims, 1), np.nan),
        "premium": total / exposure,
    }
    weights = {"frequency": exposure, "severity": claims.astype("float64"), "premium": exposure}
    means = {"frequency": rate, "severity": amount, "premium": rate * amount}
    bounds = np.cumsum([0, *PARTS.values()])
    return {
        part: (frame[a:b], *({t: x[t][a:b] for t in x} for x in (y, weights, means)))
        for part, a, b in zip(PARTS, bounds, bounds[1:])
    }


def deviance(task: str, rows: Rows, predictions: np.ndarray) -> float:
    """Return the weighted deviance of the labeled rows."""
    _, y, weights, _ = rows
    known = ~np.isnan(y[task])
    labels, power = y[task][known], TASKS[task][1]
    return mean_tweedie_deviance(
        labels, predictions[known], sample_weight=weights[task][known], power=power
    )


def boost(task: str, rows: dict[str, Rows], rng: np.random.Generator) -> lightgbm.Booster:
    """Return the best of several boosting models, which stop on the rows "stop"."""
    data = {}
    for part in ("train", "stop"):
        frame, y, weights, _ = rows[part]
        known = ~np.isnan(y[task])
        data[part] = lightgbm.Dataset(
            frame[known], y[task][known], weight=weights[task][known], categorical_feature=IDS,
            free_raw_data=False,
        )  # fmt: skip
    best = np.inf, None
    for _ in range(SETTINGS):
        setting: dict[str, Any] = {name: rng.choice(each) for name, each in CHOICES.items()}
        setting |= {"objective": TASKS[task][0], "verbose": -1, "num_threads": 1, "seed": 0}
        setting |= {"feature_pre_filter": False}
        stop = [lightgbm.early_stopping(50, verbose=False)]
        model = lightgbm.train(setting, data["train"], 2000, [data["stop"]], callbacks=stop)
        found = deviance(task, rows["stop"], model.predict(rows["stop"][0]))
        best = min(best, (found, model), key=lambda pair: pair[0])
    return best[1]


def train(rows: dict[str, Rows], columns: pk.Columns, seed: int) -> dict[str, Arrays]:
    """Return the predictions of hedged branches for the last two parts, by part and task."""
    keras.utils.set_random_seed(seed)
    heads = pk.TaskHeads(
        [
            pk.CountHead("frequency", [16], standardize=True),
            pk.TweedieHead("severity", 2.0, [16], standardize=True),
            pk.TweedieHead("premium", 1.5, [16], standardize=True),
        ]
    )
    network = columns.network(embedding_dim=8)
    expert = pk.ExpertBlock([64, 32], dropout=0.02)
    features = pk.HedgedBlock(heads, expert, features=network)(network.input)
    model = pk.MultiTaskModel(network.input, heads(features))
    model.compile(pk.table_optimizer(keras.optimizers.Adam(2e-3)))
    x = {part: columns.transform(each[0]) for part, each in rows.items()}
    _, y, weights, _ = rows["train"]
    options = {"batch_size": 500, "epochs": 100, "callbacks": [pk.FitHedge(patience=5)]}
    valid = x["stop"], *rows["stop"][1:3]
    model.fit(x["train"], y, sample_weight=weights, validation_data=valid, verbose=0, **options)
    found = {part: model.predict(x[part], 2000, verbose=0) for part in ("mix", "test")}
    return {part: {task: p[:, 0] for task, p in each.items()} for part, each in found.items()}


def run(seed: int) -> dict[str, dict[str, float]]:
    """Return the deviances of each model and task."""
    rows = make_rows(seed)
    rng, test = np.random.default_rng(seed), rows["test"]
    columns = pk.Columns(ids=IDS, numbers=NUMBERS).fit(rows["train"][0])
    boosters = {task: boost(task, rows, rng) for task in TASKS}
    boosting = {
        part: {t: b.predict(rows[part][0]) for t, b in boosters.items()} for part in ("mix", "test")
    }
    hedged, (_, y, weights, _) = train(rows, columns, seed), rows["mix"]
    pairs = {part: {"hedged": hedged[part], "LightGBM": boosting[part]} for part in hedged}
    mixture = pk.mix_predictions(y, pairs["mix"], KINDS, sample_weight=weights)
    found = pairs["test"] | {"mixture": mixture.predict(pairs["test"]), "true": test[3]}
    return {m: {t: deviance(t, test, p[t]) for t in TASKS} for m, p in found.items()}


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of LightGBM, about categories
        scores = [run(seed) for seed in seeds]
    lines = [["", *(f"{task}, deviance" for task in TASKS)]]
    for model in scores[0]:
        cells = []
        for task in TASKS:
            values = np.array([each[model][task] for each in scores])
            gains = values - [each["LightGBM"][task] for each in scores]
            error = np.std(gains, ddof=1) / len(seeds) ** 0.5 if len(seeds) > 1 else np.nan
            cells.append(f"{values.mean():.4g} ({gains.mean():+.3g} ± {error:.2g})")
        lines.append([model, *cells])
    print(align_columns(lines))


if __name__ == "__main__":
    main()
