"""compare.py reads a user's file, and refuses invalid files and options."""

import re
import runpy
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, run_example_here

pytestmark = once

ROWS = 400
INPUT, ON_DAY = ("--tasks", "click", "--columns"), ("--columns", "day")


@pytest.fixture(scope="module")
def frame():
    """Return rows with strings, large ids, missing values and labels, and odd names."""
    rng = np.random.default_rng(0)
    price = rng.normal(size=ROWS)
    click = (price + 0.3 * rng.normal(size=ROWS) > 0).astype("float64")
    kinds = [np.array("comedy", "object"), np.array("drama", "object")]
    return pd.DataFrame(
        {
            "user id": pd.array(2**60 + rng.integers(0, 9, ROWS), "Int64"),
            "city": pd.Categorical(rng.choice(["Rome", "Oslo", None], ROWS)),
            "price, $": np.where(rng.random(ROWS) < 0.9, price, np.nan),
            "day": rng.integers(0, 30, ROWS),
            "click": click,
            "watch time": np.where(click > 0, 30 + price, np.nan),
            "genre": [*["rare"] * 2, *np.select([price > 0.5, price < 0], kinds, None)[2:]],
            "votes": rng.poisson(np.exp(price)),
            "tags": [["new"], [], None, ["new", "old"]] * (ROWS // 4),
            "title": [f"Film {row}" for row in range(ROWS)],
            "adult": price > 1,
            "code": [f"x{row}" for row in range(ROWS)],
            "nested": [[["a"]]] * ROWS,
            "one": 1.0,
            "never": np.nan,
            "when": pd.Timestamp("2020-01-01"),
        }
    )


@pytest.fixture(scope="module")
def folder(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    frame.iloc[::-1].to_parquet(folder / "rows.parquet")  # with an index in a column
    frame.set_index("day").to_parquet(folder / "index.parquet")
    frame[:99].to_parquet(folder / "few.parquet")
    (folder / "text.parquet").write_text("no Parquet")
    return folder


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(EXAMPLES / "compare.py")


def compare(folder, file, *arguments):
    return run_example_here("compare.py", file, *arguments, cwd=folder)


def test_baselines_learn_every_kind_of_task_and_the_file_has_their_predictions(
    folder, frame, script, monkeypatch
):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    out = compare(
        folder,
        "rows.parquet",
        *("--tasks", "click", "watch time", "genre:multiclass", "votes:count"),
        *("--columns", "user id", "city", "price, $", "tags", "title", "adult"),
        *("--ids", "user id", "--list-length", "2", "--seeds", "1", "--epochs", "1"),
        *("--models", "linear", "boosting", "--group", "day", "--save", "saved.parquet"),
    )
    kinds = re.findall(r"^(\S.*?)  +(id|number|list|text)  .*%$", out, re.M)
    names = ["user id", "city", "adult", "price, $", "tags", "title"]
    assert kinds == [*zip(names, ["id", "id", "id", "number", "list", "text"])]
    assert re.search(r"genre: \d labels of classes with few training rows are left out\n", out)
    assert re.search(r"click, auc +watch time, rmse +genre, accuracy +votes, deviance\n", out)
    assert "boosting: scikit-learn, without LightGBM\n" in out
    assert "±" not in out
    # In one epoch, the networks learn less.
    better, figure = r" +[.\d]+ +\+[.\d]+", r" +[.\d]+ +[-+][.\d]+"
    for model in ("linear", "boosting"):
        assert re.search(rf"^{model} +- +[.\d]+{figure}(?:{better}){{3}}$", out, re.M), out
    gains = re.findall(r"^  (\S.*?)  +(linear|boosting) +([-+][.\d]+) +(?:- to -|[-+])", out, re.M)
    assert [name for name, *_ in gains] == np.repeat(
        ["click", "watch time", "genre", "votes"], 2
    ).tolist()
    assert sum(float(gain) > 0 for *_, gain in gains) >= 7

    saved = pd.read_parquet(folder / "saved.parquet")
    assert not {*saved["row"][saved["part"] == "test"]} & {*saved["row"][saved["part"] != "test"]}
    rows = frame.iloc[::-1].reset_index(drop=True).loc[saved["row"]]  # as in the file
    np.testing.assert_array_equal(saved["watch time"], rows["watch time"])
    days = saved.assign(day=[*rows["day"]]).groupby("day")["part"].nunique()
    assert days.max() == 1
    test = saved[saved["part"] == "test"]
    for task, kind in (("click", "binary"), ("votes", "count")):
        values = script["score"](
            kind, *(test[[name]].to_numpy() for name in (task, f"linear {task}"))
        )
        assert f" {values:.4f} " in re.search(r"^linear.*", out, re.M).group()
    assert saved["boosting genre: drama"].between(0, 1).all()


@pytest.mark.parametrize("library", ["lightgbm", "sklearn"])
def test_boosting_learns_categories_and_stops_on_validation_rows(script, monkeypatch, library):
    names = script["boosting"].__globals__
    monkeypatch.setitem(names, "TREE_COUNT", 50)
    if library == "lightgbm":
        pytest.importorskip("lightgbm")
    else:
        monkeypatch.setitem(names, "lightgbm", None)
    size, rng = 4000, np.random.default_rng(0)
    codes = rng.integers(0, 280, size)  # more values than trees of scikit-learn can read
    effect = rng.choice([0, 2], 280)[codes]
    labels = {
        "binary": np.where(codes > 0, effect / 2, np.nan),
        "regression": 1e3 + effect,
        "multiclass": np.minimum(effect, codes % 3),
        "count": rng.poisson(1 + effect),
        "amount": rng.poisson(1 + 2 * effect) * rng.gamma(5, 1, size),
        "gamma": rng.gamma(5, 1 + effect),
    }
    labels = {kind: pd.Series(each, dtype="float64") for kind, each in labels.items()}
    frame = pd.DataFrame({"city": codes, "price": np.where(codes % 2, np.nan, 1e9)})
    columns = script["pk"].Columns(ids=["city"], numbers=["price"])
    rows = np.split(np.arange(size), [3000, 3500])
    data = script["encode"](frame, columns, labels, {kind: kind for kind in labels}, rows)
    settings = script["TREES"] | {"learning_rate": 0.2, "cat_smooth": 1.0}
    for kind in labels if library == "lightgbm" else ("binary", "count"):  # slower
        predictions = script["boosting"](kind, kind, data, 0, settings)
        for (_, y), found in zip(data[0][1:], predictions, strict=True):
            assert len(found) == 500
            assert script["figures"](kind, y[kind], found).relative_error < 0.8
    for kind in ("amount", "gamma"):
        predictions = script["linear"](kind, kind, data, 0, {})
        found = script["figures"](kind, data[0][2][1][kind], predictions[1])
        assert found.relative_error < 0.9


def test_rows_have_the_parts_of_groups_of_times_or_of_a_column(script):
    split, days = script["split"], np.arange(200)[::-1] // 4
    frame = pd.DataFrame({"person": [*"abcdefghij"] * 20, "day": days, "one": days % 2})
    parts = [split(frame, None, None, "person", seed) for seed in (0, 1)]
    for rows in parts:
        assert [len(each) for each in rows] == [120, 40, 40]
        assert sorted(np.concatenate(rows)) == [*range(200)]
        people = [{*frame["person"][each]} for each in rows]
        assert sum(map(len, people)) == 10
    assert {*parts[0][2]} != {*parts[1][2]}
    training, valid, test = (frame["day"][rows] for rows in split(frame, None, "day", None, 0))
    assert training.max() < valid.min() <= valid.max() < test.min()  # a day is in one part
    frame["team"] = frame["day"] // 5 + frame["one"] / 2  # with days of its own and others
    times = [frame.iloc[rows] for rows in split(frame, None, "day", "team", 0)]
    assert sum(each["team"].nunique() for each in times) == frame["team"].nunique()
    last = [each.groupby("team")["day"].max() for each in times]
    assert last[0].max() < last[1].min() <= last[1].max() < last[2].min()

    frame["part"] = np.repeat(["test", "training", "validation"], [20, 150, 30])
    rows = split(frame, "part", None, None, 0)
    assert [each[0] for each in rows] == [20, 170, 0]
    assert [len(each) for each in rows] == [150, 30, 20]


def test_gains_in_the_loss_are_over_the_rows_of_all_seeds(script, capsys):
    rng, kinds = np.random.default_rng(0), {"kind": "multiclass", "cost": "gamma"}
    y = {"kind": rng.integers(0, 3, 300), "cost": rng.gamma(2, 1, 300)}
    y = {task: values.astype("float64") for task, values in y.items()}
    y["cost"][::9] = np.nan
    exact = {"kind": np.eye(3)[y["kind"].astype(int)] * 0.7 + 0.1, "cost": y["cost"][:, None]}
    constant = {"kind": np.full((300, 3), 1 / 3), "cost": np.full((300, 1), 2.0)}
    predictions = {
        name: {task: [None, values] for task, values in by_task.items()}
        for name, by_task in {"single": constant, "ple": exact, "mmoe": constant}.items()
    }
    seeds = [([None, None, np.arange(300)], None, y, predictions)] * 2
    script["print_gains"](kinds, ["ple", "mmoe"], seeds, np.arange(300))
    out = capsys.readouterr().out
    loss = 100 * (1 - np.log(0.8) / np.log(1 / 3))
    low, high = re.search(
        rf"kind +ple +\+{loss:.1f} +\+([.\d]+) to \+([.\d]+)  better", out
    ).groups()
    assert float(low) == pytest.approx(float(high), abs=0.1)  # all rows gain the same
    assert re.search(r"cost +ple +\+100\.0 .* better", out)
    assert len(re.findall(r" mmoe +\+0\.0 +[-+]0\.0 to \+0\.0  not worse", out)) == 2


def test_a_search_prints_the_best_setting_of_each_network(folder):
    arguments = ("--tasks", "click", "--columns", "price, $", "--models", "linear", "--seeds", "1")
    out = compare(folder, "rows.parquet", *arguments, "--epochs", "2", "--search", "2")
    ((first, lowest),) = re.findall(r"^single click +(0\.\d+)  (0\.\d+)", out, re.M)
    assert lowest <= first


def test_boosting_is_a_branch_that_the_mixture_weighs(folder, frame, script, capsys):
    kinds = {"click": "binary", "city": "multiclass"}
    columns, rows = script["pk"].Columns(numbers=["day"]), np.split(np.arange(ROWS), [200, 300])
    data = script["encode"](frame, columns, frame[[*kinds]], kinds, rows)
    exact = {"city": np.eye(2)[np.nan_to_num(data[0][1][1]["city"]).astype(int)]}
    exact = {task: exact.get(task, data[0][1][1][task][:, None]) for task in kinds}
    given = {task: [np.nan_to_num(values), np.nan_to_num(values)] for task, values in exact.items()}
    sizes, options = lambda *_: (0, 4), {"batch_size": 100, "epochs": 1, "patience": 1}
    train = partial(script["train"], script["BOTH"], kinds, data, sizes, options, 0)
    loss, predictions = train(script["SETTING"], given=given)
    assert loss < 0.05
    assert all(np.isfinite(found[1]).all() for found in predictions.values())
    with pytest.raises(SystemExit):
        compare(folder, "rows.parquet", *INPUT, "day", "--models", "hedged+boosting")
    assert "must have boosting and hedged for hedged+boosting" in capsys.readouterr().err


def test_a_search_keeps_the_changes_that_lower_the_loss(script):
    first, choices = script["SETTING"], script["CHOICES"]
    unused = {*choices} - {"rate", "dropout"}
    settings = script["draw_settings"](first, choices, unused, 9)
    numbers = script["draw_settings"](
        first, choices, {*choices} - {"number_units", "number_bins"}, 9
    )
    assert {each["number_bins"] for each in numbers if not each["number_units"]} == {16}
    assert {each["number_bins"] for each in numbers} > {16}
    changed = {part for each in settings for part in first if each[part] != first[part]}
    assert settings[0] == first
    assert changed == {"rate", "dropout"}

    def run(setting, stop=()):
        return 1.0 - (setting["rate"] == 8e-3) + 0.1 * (setting["width"] == 4), {}

    settings = [first, first | {"rate": 8e-3, "width": 4}]
    found = script["search"](settings, 10, run, print)
    assert found == (first | {"rate": 8e-3}, 0.0, 1.0, {"rate": pytest.approx(1.0)})


def test_training_ends_with_a_loss_above_the_median(script):
    stops, seen = [], {}
    for loss in (0.5, 0.7, 0.4):
        halving = script["Halving"](2, seen)
        halving.set_model(SimpleNamespace(stop_training=False))
        for epoch in range(4):
            halving.on_epoch_end(epoch, {"hedge/loss": loss})
            stops.append(halving.model.stop_training)
    assert stops == 5 * [False] + 3 * [True] + 4 * [False]


@pytest.mark.nightly
def test_tasks_of_four_kinds_are_compared_with_single_networks(folder):
    out = compare(
        folder,
        "rows.parquet",
        *("--tasks", "click", "watch time", "genre:multiclass", "votes:count"),
        *("--columns", "user id", "city", "price, $", "tags", "--ids", "user id", "--time", "day"),
        *("--models", "boosting", "bottom", "hedged", "hedged+boosting"),
        *("--seeds", "2", "--epochs", "1"),
    )
    assert re.search(r"^click: binary, 100\.0%", out, re.M)
    assert re.search(r"^watch time: regression, \d\d\.\d%", out, re.M)
    assert re.search(r"^genre: multiclass, \d\d\.\d%", out, re.M)
    cell = r" +[.\d]+(?: +[-+][.\d]+ ± [.\d]+\*?)?"
    lines = re.findall(
        rf"^(single|bottom|hedged|hedged.boosting) +([\d,]+) +[\d.]+(?:{cell}){{4}}$", out, re.M
    )
    assert [model for model, *_ in lines] == ["single", "bottom", "hedged", "hedged+boosting"]
    goal, *others = (int(parameters.replace(",", "")) for _, parameters in lines)
    assert all(0.9 * goal < each <= goal for each in others)
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["text.parquet", "--tasks", "click"], "text.parquet can't be read as a Parquet file"),
        (["absent.parquet", "--tasks", "click"], "absent.parquet can't be read"),
        (["rows.parquet", "--tasks", "clik"], "has no column 'clik'. Its columns are user id, "),
        (["rows.parquet", "--tasks", "click", "--time", "dai"], "has no column 'dai'"),
        (["rows.parquet", "--tasks", "click:counts"], "click must be one of binary, regression"),
        (["rows.parquet", "--tasks", "price, $:count", *ON_DAY], "price, $ must be at least 0 for"),
        (["rows.parquet", *INPUT, "when"], "Column when must contain numbers, booleans, strings"),
        (["rows.parquet", *INPUT, "never"], "Column never must contain numbers, booleans, strings"),
        (["rows.parquet", *INPUT, "code"], "Column code must have a value in min_rows=5 rows."),
        (["rows.parquet", *INPUT, "nested"], "Received: nested=['a']. Omit a column with --col"),
        (["few.parquet", "--tasks", "click"], "few.parquet must have at least 100 rows."),
        (["rows.parquet", *INPUT, "day", "--time", "never"], "never must have a value in each"),
        (["rows.parquet", *INPUT, "day", "--group", "never"], "never must have a value in each"),
        (["rows.parquet", *INPUT, "day", "--part", "genre"], "genre must have a value of ['trai"),
        (["rows.parquet", *INPUT, "day", "--group", "one"], "different values of {'group': 'one'}"),
        (["index.parquet", "--tasks", "day:binary", "--columns", "city"], "labels from 0 to 1"),
        (["rows.parquet", "--tasks", "city:regression", *ON_DAY], "city must contain numbers"),
        (["rows.parquet", "--tasks", "click", "--columns", "click"], "'click' is a task, so it"),
        (["rows.parquet", "--tasks", "one", *ON_DAY], "one must have labels with two different"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_column(folder, arguments, reason):
    with pytest.raises(SystemExit, match=re.escape(reason)):
        compare(folder, *arguments)
