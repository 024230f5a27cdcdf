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
INPUT = ("--tasks", "click", "--columns")


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
    kinds = re.findall(r"^(\d\w+) +(id|number|list|text) .*%$", out, re.M)
    names = ["0_user_id", "1_city", "5_adult", "2_price_", "3_tags", "4_title"]
    assert kinds == [*zip(names, ["id", "id", "id", "number", "list", "text"])]
    assert re.search(r"genre: \d labels of classes with few training rows are left out\n", out)
    assert re.search(r"click, auc +watch time, rmse +genre, accuracy +votes, deviance\n", out)
    assert "boosting: scikit-learn, without LightGBM\n" in out
    assert "±" not in out
    # In one epoch, the networks learn less.
    better, figure = r" +[.\d]+ +\+[.\d]+", r" +[.\d]+ +[-+][.\d]+"
    rows = rf"^linear +- +[.\d]+(?:{better}){{4}}\nboosting +- +[.\d]+{figure}(?:{better}){{3}}$"
    assert re.search(rows, out, re.M)

    saved = pd.read_parquet(folder / "saved.parquet")
    assert not {*saved["row"][saved["part"] == "test"]} & {*saved["row"][saved["part"] != "test"]}
    rows = frame.iloc[::-1].reset_index(drop=True).loc[saved["row"]]  # as in the file
    np.testing.assert_array_equal(saved["watch time"], rows["watch time"])
    days = saved.assign(day=[*rows["day"]]).groupby("day")["part"].nunique()
    assert days.max() == 1
    test = saved[saved["part"] == "test"]
    for task, kind in (("click", "binary"), ("votes", "count")):
        values = script["score"](kind, test[task].to_numpy(), test[f"linear {task}"].to_numpy())
        assert f" {values:.4f} " in re.search(r"^linear.*", out, re.M).group()
    assert saved["boosting genre drama"].between(0, 1).all()


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
            assert script["relative_loss"](kind, y[kind], found) < 0.8
    for kind in ("amount", "gamma"):
        predictions = script["linear"](kind, kind, data, 0, {})
        assert script["relative_loss"](kind, data[0][2][1][kind], predictions[1]) < 0.9


def test_groups_stay_whole_and_time_orders_the_rows(script):
    split, groups_of = script["split"], script["groups_of"]
    frame = pd.DataFrame({"person": [*"abcdefghij"] * 20, "day": np.arange(200)[::-1] // 2})
    groups = groups_of(frame, None, "person")
    parts = [split(groups, np.random.default_rng(seed)) for seed in (0, 1)]
    for rows in parts:
        assert [len(each) for each in rows] == [140, 20, 40]
        assert sorted(np.concatenate(rows)) == [*range(200)]
        people = [{*frame["person"][each]} for each in rows]
        assert sum(map(len, people)) == 10
    assert {*parts[0][2]} != {*parts[1][2]}
    training, valid, test = (frame["day"][rows] for rows in split(groups_of(frame, "day", None)))
    assert training.max() <= valid.min() <= valid.max() <= test.min()


def test_a_search_prints_the_best_setting_of_each_network(folder):
    arguments = ("--tasks", "click", "--columns", "price, $", "--models", "linear", "--seeds", "1")
    out = compare(folder, "rows.parquet", *arguments, "--epochs", "2", "--search", "2")
    ((first, lowest),) = re.findall(r"^single click +(0\.\d+)  (0\.\d+)", out, re.M)
    assert lowest <= first


def test_boosting_is_a_branch_that_the_mixture_weighs(folder, frame, script, capsys):
    kinds = {"click": "binary", "city": "multiclass"}
    labels = {task: script["check_task"](task, kind, frame[task]) for task, kind in kinds.items()}
    columns, rows = script["pk"].Columns(numbers=["day"]), np.split(np.arange(ROWS), [200, 300])
    data = script["encode"](frame, columns, labels, kinds, rows)
    exact = {"city": np.eye(2)[np.nan_to_num(data[0][1][1]["city"]).astype(int)]}
    exact = {task: exact.get(task, data[0][1][1][task]) for task in kinds}
    given = {
        task: [np.nan_to_num(values), np.full(values.shape, np.nan)]
        for task, values in exact.items()
    }
    sizes, options = lambda *_: (0, 4), {"batch_size": 100, "epochs": 1, "patience": 1}
    train = partial(script["train"], script["BOTH"], kinds, data, sizes, options, 0)
    loss, predictions = train(script["SETTING"], given=given)
    assert loss < 0.05
    assert all(np.isfinite(found[1]).all() for found in predictions.values())
    with pytest.raises(SystemExit):
        compare(folder, "rows.parquet", *INPUT, "day", "--models", "hedged+boosting")
    assert "must have boosting and hedged for hedged+boosting" in capsys.readouterr().err


def test_numbers_have_the_bins_of_the_setting(script):
    frame = pd.DataFrame({"age": np.arange(64.0)})
    columns = script["pk"].Columns(numbers=["age"]).fit(frame)
    setting = script["SETTING"] | {"number_units": 2, "number_bins": 4}
    network = script["features"](columns, setting)
    (edges,) = next(layer.edges for layer in network.layers if hasattr(layer, "edges"))
    mean, deviation, *_ = columns.scales["age"]
    np.testing.assert_allclose(np.multiply(edges, deviation) + mean, [0, 15, 31, 47, 63], atol=1e-4)
    assert len(columns.quantiles["age"]) == 17


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


def test_the_loss_of_a_constant_is_1_and_the_lowest_one_counts(script):
    y = {"a": [0, 1, 1, np.nan], "b": [1, np.nan, 2, 6], "c": [0, 2, 1, 0], "d": [0, 3, 1, np.nan]}
    y = {task: np.array(labels, "float32") for task, labels in y.items()}
    kinds = zip(y, ("binary", "regression", "multiclass", "count"))
    kinds = dict(kinds)
    constant = {"a": [2 / 3], "b": [3], "c": [0.5, 0.25, 0.25], "d": [4 / 3]}
    constant = {task: np.float32(4 * [mean]) for task, mean in constant.items()}
    exact = {task: np.nan_to_num(labels)[:, None] for task, labels in y.items()}
    exact["c"] = np.eye(3)[y["c"].astype(int)]
    callback, logs = script["RelativeLoss"](kinds, None, y), []
    for predictions in (constant, exact, constant):
        callback.set_model(SimpleNamespace(predict=lambda *_, found=predictions, **__: found))
        logs.append({})
        callback.on_epoch_end(0, logs[-1])
    np.testing.assert_allclose([each["hedge/loss"] for each in logs], [1, 0, 0], atol=1e-6)


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
        (
            ["rows.parquet", "--tasks", "price, $:count", "--columns", "day"],
            "price, $ must be at least 0 for counts",
        ),
        (
            ["rows.parquet", "--tasks", "price, $:amount", "--columns", "day"],
            "price, $ must be at least 0 for amounts",
        ),
        (["rows.parquet", *INPUT, "when"], "Column when must contain numbers, booleans, strings"),
        (["rows.parquet", *INPUT, "never"], "Column never must contain numbers, booleans, strings"),
        (["rows.parquet", *INPUT, "code"], "Column code must have a value in min_rows=5 rows."),
        (["rows.parquet", *INPUT, "nested"], "Received: nested=['a']. Omit a column with --col"),
        (["few.parquet", "--tasks", "click"], "few.parquet must have at least 100 rows."),
        (["rows.parquet", "--tasks", "click", "--time", "never"], "never must have a value in ev"),
        (["rows.parquet", "--tasks", "click", "--group", "never"], "never must have a value in e"),
        (["rows.parquet", *INPUT, "day", "--group", "one"], "--group must have many small groups"),
        (["index.parquet", "--tasks", "day:binary", *INPUT[2:], "city"], "day must contain 0 and"),
        (["rows.parquet", "--tasks", "day:binary", "--columns", "city"], "day must contain 0 and"),
        (
            ["rows.parquet", "--tasks", "city:regression", "--columns", "day"],
            "city must contain nu",
        ),
        (["rows.parquet", "--tasks", "click", "--columns", "click"], "'click' is a task, so it"),
        (["rows.parquet", "--tasks", "one", "--columns", "day"], "one has one value, 1, in the t"),
        (["rows.parquet", "--tasks", "never", "--columns", "day"], "never has no label in the tr"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_column(folder, arguments, reason):
    with pytest.raises(SystemExit, match=re.escape(reason)):
        compare(folder, *arguments)
