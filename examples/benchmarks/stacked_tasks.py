"""Measure what tasks gain by reading each other's predictions, by `StackedTasks` and a linear way.

    pip install -e ".[torch,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.against_boosting --run  # keeps predictions
    KERAS_BACKEND=torch python -m examples.benchmarks.stacked_tasks --run     # from predictions
    KERAS_BACKEND=torch python -m examples.benchmarks.stacked_tasks           # from kept changes

`--run` takes ten minutes on one core. These rules were written before the first table:

    tables      the nine of against_boosting, split at random (MovieLens in the order of time), and
                five of new_rows whose validation and test rows are of later years or new ids. There
                a TabularModel trains with its defaults.
    models      hedged branches, alone and with the best boosting as a branch; that boosting; and
                for MovieLens single-task networks and a shared bottom.
    rows        150, 500 and 1,500 random validation rows, as means over draws, and all of them.
    ways        StackedTasks with priors of 2, 5 and 10 on the own weight. "linear" adds a linear
                function of the other predictions, with ridges of 10 to 100,000 labels, whose fits
                are averaged by the marginal likelihood of the labels (Laplace's approximation).
    change      of the test loss, in percent of the loss of a constant: negative is better. It is a
                mean over seeds. Beyond the noise: at least twice its standard error over rows.
    condition   for a use by default: worse beyond the noise nowhere, and with 150 rows worse by at
                most 0.1% on average.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

import ple_keras as pk
from ple_keras._keras.tensors import to_numpy
from ple_keras.hedging import stacked_tasks as stacking
from ple_keras.inspection.compare_predictions import _known_losses

from . import new_rows
from ._frames import ALL, KINDS, ROOT, TABLES, compare
from ._tables import align_columns, make_parser
from .against_boosting import PREDICTIONS, RANKED, RIVAL, load, read

KEPT = ROOT / "docs" / "results" / "stacked_tasks.json"
NEW = ["gss", "years", "ratings", "communes", "flights"]
RANDOM = [table for table in TABLES if ALL not in table]
MODELS = ["hedged", "mixture", RIVAL, "single", "bottom"]
WAYS = {"prior 2": 2.0, "prior 5": 5.0, "prior 10": 10.0, "linear": None}
DRAWS = {150: 6, 500: 4, 1500: 2, 0: 1}  # by the number of validation rows, 0 for all
RIDGES = 10.0 ** np.arange(1, 5.5, 0.5)
LEAST = 1e-7  # probability or count
SCORED = ["like", "rating", "hate"]
Part = tuple[pd.DataFrame, pd.DataFrame]  # labels and predictions


def read_parts(table: str, seed: int, model: str) -> tuple[list[Part], dict[str, str]]:
    """Return the validation rows and the test rows, and the kinds of the tasks."""
    found, _, labels = load(table, seed)
    labels = labels.drop(columns=[name for name in labels if name in RANKED])
    p = read(table, seed, model)[[*labels]].astype("float64")
    return [(labels.loc[r], p.loc[r]) for r in found.rows[1:]], {t: KINDS[t] for t in labels}


def train_on_new(name: str, seed: int) -> tuple[list[Part], dict[str, str]]:
    """Return the parts of a table with new rows, whose predictions are kept."""
    table = new_rows.TABLES[name]()
    train, valid, _, new = new_rows.split(table, seed, True)
    frame, rows = table.frame.reset_index(drop=True), np.concatenate([valid, new])
    kinds = {t: "regression" if t in new_rows.REGRESSIONS else "binary" for t in table.tasks}
    file = PREDICTIONS / f"new {name}-{seed}-hedged.npz"
    if not file.exists():
        model = pk.TabularModel(kinds, ids=table.ids, seed=seed)
        model.fit(frame.loc[train], validation=frame.loc[valid], verbose=0)
        PREDICTIONS.mkdir(exist_ok=True)
        np.savez_compressed(file, **model.predict(frame.loc[rows]))
    p, y = pd.DataFrame(dict(np.load(file)), rows), frame[[*kinds]].astype("float64")
    return [(y.loc[part], p.loc[part].astype("float64")) for part in (valid, new)], kinds


def to_values(p: pd.DataFrame, kinds: dict[str, str]) -> np.ndarray:
    """Return logits, logarithms of counts, and values, `(rows, tasks)`."""
    forms = {"binary": special.logit, "count": np.log, "regression": np.asarray}
    low = {"binary": LEAST, "count": LEAST, "regression": -np.inf}
    high = {"binary": 1 - LEAST, "count": np.inf, "regression": np.inf}
    return np.stack([forms[k](np.clip(p[t], low[k], high[k])) for t, k in kinds.items()], axis=1)


def adapt_linear(kind: str, task: int, y: np.ndarray, f: np.ndarray) -> Any:
    """Return a function of values `(rows, tasks)` that returns the value of a task.

    Args:
        kind: The kind of the task.
        task: Its index.
        y: The labels.
        f: The values of all tasks.
    """
    own, center, deviation = f[:, task], f.mean(axis=0), f.std(axis=0)
    inverse = {"binary": special.expit, "count": np.exp, "regression": np.asarray}[kind]
    mean, unit, dispersion = inverse(own), 1.0, 1.0
    if kind != "binary":
        variances = [(mean, y.mean()) if kind == "count" else (1.0, 1.0)]
        dispersion = min(np.mean((y - m) ** 2 / v) for m, v in zip((mean, y.mean()), *variances))
        unit = dispersion**0.5 if kind == "regression" else 1.0

    def columns(f: np.ndarray) -> np.ndarray:
        z = np.delete((f - center) / deviation, task, axis=1)
        return np.column_stack([np.ones(len(f)), z]) * unit

    def derivatives(g: np.ndarray) -> np.ndarray:
        p = inverse(g)
        second = {"binary": p * (1 - p), "count": p, "regression": np.ones_like(p)}[kind]
        return np.stack([p - y, second]) / dispersion

    x, points, evidence = columns(f), [], []
    for ridge in RIDGES:
        penalty = partial(lambda ridge, w: (ridge * w, ridge * np.eye(len(w))), ridge)
        w = stacking._minimize(derivatives, penalty, x, own, np.zeros(x.shape[1]))
        curvature = (x.T * derivatives(own + x @ w)[1]) @ x / ridge + np.eye(len(w))
        loss = losses_of(kind, y, inverse(own + x @ w)).sum() / dispersion
        loss /= 2 if kind == "regression" else 1
        points.append(w)
        evidence.append(-loss - ridge / 2 * w @ w - np.linalg.slogdet(curvature)[1] / 2)
    w = special.softmax(evidence) @ points
    return lambda f: inverse(f[:, task] + columns(f) @ w)


def losses_of(kind: str, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.asarray(_known_losses(kind, y, p))


def predict(way: str, heads: pk.TaskHeads, parts: Sequence[Part], kinds: dict[str, str]) -> Any:
    """Return the test predictions by task, fitted to the first part."""
    (labels, p), (_, test) = parts
    if (prior := WAYS[way]) is not None:
        stacking.OWN_PRIOR, layer = prior, pk.StackedTasks(heads)
        arrays, rows = ({t: each[[t]].to_numpy() for t in kinds} for each in (p, test))
        layer.adapt(arrays, {t: labels[t].to_numpy() for t in kinds})
        return {t: to_numpy(x)[:, 0] for t, x in layer(rows).items()}
    found, f, values = {}, to_values(p, kinds), to_values(test, kinds)
    for index, (task, kind) in enumerate(kinds.items()):
        y, known = labels[task].to_numpy(), labels[task].notna().to_numpy()
        rare = known.sum() - labels[task].value_counts().max()
        if known.sum() < stacking.MIN_LABELS or rare < stacking.MIN_RARE:
            found[task] = test[task].to_numpy()
        else:
            found[task] = adapt_linear(kind, index, y[known], f[known])(values)
    return found


def measure(table: str, seed: int, model: str) -> list[dict[str, Any]]:
    """Return the changes of the test losses, by task, rows and way."""
    name = table.removeprefix("new ")
    parts, kinds = train_on_new(name, seed) if name != table else read_parts(table, seed, model)
    heads = pk.TaskHeads([compare.new_head(k, t, 1) for t, k in kinds.items()])
    (labels, p), (truth, test) = parts
    rows = []
    for (count, draws), way in product(DRAWS.items(), WAYS):
        if count > 0.9 * len(p):
            continue
        totals: Any = dict.fromkeys(kinds, 0.0)
        for draw in range(draws):
            chosen = np.random.default_rng([seed, draw]).permutation(len(p))[: count or None]
            found = predict(way, heads, [(labels.iloc[chosen], p.iloc[chosen]), parts[1]], kinds)
            totals = {t: totals[t] + losses_of(kinds[t], truth[t], found[t]) for t in kinds}
        for task, kind in kinds.items():
            y, known = truth[task].to_numpy(), truth[task].notna().to_numpy()
            constant = np.mean(losses_of(kind, y[known], np.full(known.sum(), y[known].mean())))
            old = losses_of(kind, y, test[task].to_numpy())
            change = 100 * (totals[task] / draws - old)[known] / constant
            row = {"table": table, "seed": seed, "model": model, "task": task, "rows": count}
            row |= {"way": way, "change": change.mean(), "error": stats.sem(change)}
            if table == "MovieLens" and not count:
                row["scores"] = [score_of(task, y, each[task]) for each in (test, found)]
            rows.append(row)
    return rows


def score_of(task: str, labels: np.ndarray, predictions: Any) -> float:
    figures = compare.figures(KINDS[task], labels, np.asarray(predictions)[:, None])
    return float(getattr(figures, compare.METRICS[KINDS[task]]))


def format_tables(kept: pd.DataFrame) -> str:
    """Return the summary, the cases that are worse, and the scores of MovieLens."""
    keys = ["model", "table", "task", "rows", "way"]
    by_task = kept.groupby(keys, sort=False).agg(
        change=("change", "mean"), error=("error", lambda x: np.sqrt((x**2).sum()) / len(x))
    )
    by_task["z"] = (by_task["change"] / by_task["error"].where(by_task["error"] > 0)).fillna(0)
    summary = [("validation rows", "way", "mean", "worst", "worse", "better", "of")]
    for model, rows, way in product(MODELS[:3], DRAWS, WAYS):
        if way == next(iter(WAYS)):
            summary.append((f"{rows or 'all'}, {model}", *[""] * 6))
        each = by_task.xs((model, rows, way), level=("model", "rows", "way"))
        counts = (each["z"] >= 2).sum(), (each["z"] <= -2).sum(), len(each)
        figures = f"{each['change'].mean():+.2f}", f"{each['change'].max():+.2f}"
        summary.append(("", way, *figures, *map(str, counts)))
    worse = [("worse: hedged, all rows, prior 10", "change")]
    chosen = by_task.xs(("hedged", 0, "prior 10"), level=("model", "rows", "way"))
    for (table, task), each in chosen[chosen["z"] >= 2].iterrows():
        worse.append((f"{table}: {task}", f"{each['change']:+.2f} ± {each['error']:.2f}"))
    scores = [("without and with prior 10", *SCORED)]
    films = kept[kept["scores"].notna() & (kept["way"] == "prior 10")]
    for model, each in films.groupby("model", sort=False):
        means = {t: np.mean([*x], axis=0) for t, x in each.groupby("task")["scores"]}
        scores.append((model, *(" to ".join(f"{x:.4f}" for x in means[t]) for t in SCORED)))
    return "\n\n".join(map(align_columns, (summary, worse, scores)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the changes, or print the kept ones."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", action="store_true", help="measure again")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds; 3 by default")
    args = parser.parse_args(arguments)
    if args.run:
        seeds, rows = range(args.seeds), []
        cases = [*product(RANDOM, MODELS[:3]), *product(["MovieLens"], MODELS[3:])]
        cases += [(f"new {name}", "hedged") for name in NEW]
        for seed, case in product(seeds, cases):
            rows += measure(case[0], seed, case[1])
            print(*case, seed, flush=True)
        pd.DataFrame(rows).round(5).to_json(KEPT, orient="split", index=False)
    print(format_tables(pd.read_json(KEPT, orient="split")))


if __name__ == "__main__":
    main()
