"""compare.py trains every model on every kind of task, and refuses files that do not fit."""

import re
import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, load_module

pytestmark = once
pytest.importorskip("lightgbm")

compare = load_module(EXAMPLES / "compare.py")
ROWS = 400
TASKS = {"click": "binary", "watch time": "regression", "genre": "multiclass", "votes": "count"}
TASKS |= {"spent": "amount"}
COLUMNS = ["user id", "city", "price, $", "tags", "adult"]


@pytest.fixture
def frame():
    """Return rows with strings, large ids, missing values and labels, and odd names."""
    rng = np.random.default_rng(0)
    price = rng.normal(size=ROWS)
    kinds = [np.array("comedy", "object"), np.array("drama", "object")]
    click = price + 0.3 * rng.normal(size=ROWS) > 0
    return pd.DataFrame(
        {
            "user id": pd.array(2**60 + rng.integers(0, 9, ROWS), "Int64"),
            "city": pd.Categorical(rng.choice(["Rome", "Oslo", None], ROWS)),
            "price, $": np.where(rng.random(ROWS) < 0.9, price, np.nan),
            "day": rng.integers(0, 30, ROWS),
            "click": click,
            "watch time": np.where(click, 30 + price, np.nan),
            "genre": [*["rare"] * 2, *np.select([price > 0.5, price < 0], kinds, None)[2:]],
            "votes": rng.poisson(np.exp(price)),
            "spent": rng.poisson(np.exp(price)) * rng.gamma(5, 1, ROWS),
            "tags": [["new"], [], None, ["new", "old"]] * (ROWS // 4),
            "adult": price > 1,
        }
    )


@pytest.fixture
def run(frame, tmp_path, monkeypatch, capsys):
    def run(*arguments, file="rows.parquet"):
        monkeypatch.setattr(sys, "argv", ["compare.py", file, *arguments])
        compare.main()
        return capsys.readouterr().out

    frame.iloc[::-1].to_parquet(tmp_path / "rows.parquet")  # with an index in a column
    (tmp_path / "text.parquet").write_text("no Parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "EPOCHS", 1)
    monkeypatch.setattr(compare, "TREE_COUNT", 30)
    return run


def test_models_learn_every_kind_of_task_and_a_search_chooses_settings(run):
    kinds = ["click", "watch time", "genre", "votes:count", "spent:amount"]
    arguments = ["--columns", *COLUMNS, "--ids", "user id", "--seeds", "1"]
    models = ["linear", "boosting", "hedged", "bottom"]
    out = run("--tasks", *kinds, *arguments, "--models", *models)
    found = re.findall(r"^(\S.*?)  +(id|number|list|text)  .*%$", out, re.M)
    assert found == [
        *zip(["user id", "city", "adult", "price, $", "tags"], [*["id"] * 3, "number", "list"])
    ]
    assert re.search(r"^watch time: regression, \d\d\.\d% of the rows have a label$", out, re.M)
    assert re.search(r"click, auc +watch time, rmse +genre, accuracy +votes, deviance +spent", out)
    aucs = re.findall(r"^(\w+) +([.\d]+)(?: +[.\d]+){4}$", out, re.M)
    assert [model for model, _ in aucs] == [*models, "mixture"]
    assert all(0.5 < float(auc) <= 1 for _, auc in aucs)
    gains = re.findall(r"^  (\S.*?)  +(boosting|hedged|bottom|mixture)  .*  \w", out, re.M)
    assert gains == [*product(TASKS, ("boosting", "hedged", "bottom", "mixture"))]

    models = ["boosting", "bottom"]
    out = run("--tasks", "click", *arguments, "--search", "2", "--models", *models)
    assert re.findall(r"^(\w+), click: [01]\.\d{4} with ", out, re.M) == models


LONG = [
    pytest.param(model, marks=pytest.mark.nightly) for model in ("hedged", "linear", "mmoe", "ple")
]


@pytest.mark.parametrize("model", ["boosting", *LONG])
def test_a_model_learns_and_predicts_both_parts(model, frame, monkeypatch):
    monkeypatch.setattr(compare, "EPOCHS", 30)
    kinds = {task: TASKS[task] for task in ("click", "votes")}
    columns = compare.pk.Columns.infer(frame[["price, $", "city"]])
    data = compare.encode(frame, compare.split(frame, None, None, 0), columns, kinds)
    setting = compare.choose(model, data, kinds, 1)
    found = compare.MODELS[model](data, kinds, 0, setting)
    for task, kind in kinds.items():
        for y, p in zip(data.y[1:], found[task], strict=True):
            assert compare.relative_loss(kind, y[task], p) < 0.95


def test_rows_have_the_parts_of_groups_or_of_times():
    split, days = compare.split, np.arange(200)[::-1] // 4
    frame = pd.DataFrame({"person": [*"abcdefghij"] * 20, "day": days, "one": days % 2})
    parts = [split(frame, None, "person", seed) for seed in (0, 1)]
    for rows in parts:
        assert [len(each) for each in rows] == [140, 20, 40]
        assert sorted(np.concatenate(rows)) == [*range(200)]
        people = [{*frame["person"][each]} for each in rows]
        assert sum(map(len, people)) == 10
    assert {*parts[0][2]} != {*parts[1][2]}
    training, valid, test = (frame["day"][rows] for rows in split(frame, "day", None, 0))
    assert training.max() < valid.min() <= valid.max() < test.min()  # a day is in one part
    frame["team"] = frame["day"] // 5 + frame["one"] / 2  # with days of its own and others
    times = [frame.iloc[rows] for rows in split(frame, "day", "team", 0)]
    assert sum(each["team"].nunique() for each in times) == frame["team"].nunique()
    last = [each.groupby("team")["day"].max() for each in times]
    assert last[0].max() < last[1].min() <= last[1].max() < last[2].min()


def test_a_search_keeps_the_changes_that_lower_the_loss():
    choices = compare.CHOICES
    first = {part: values[0] for part, values in choices.items()}
    settings = compare.draw_settings(first, choices, ["embedding_dim", "number_embedding_dim"], 9)
    changed = {part for each in settings for part in first if each[part] != first[part]}
    assert settings[0] == first
    assert changed == {"learning_rate", "dropout"}

    def run(setting):
        return 1.0 - (setting["learning_rate"] == 8e-3) + 0.1 * (setting["embedding_dim"] == 4)

    settings = [first, first | {"learning_rate": 8e-3, "embedding_dim": 4}]
    assert compare.search(settings, run) == (first | {"learning_rate": 8e-3}, 0.0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["text.parquet", "--tasks", "click"], "text.parquet can't be read as a Parquet file"),
        (["rows.parquet", "--tasks", "clik"], "has no column 'clik'. Its columns are user id, "),
        (["rows.parquet", "--tasks", "click", "--time", "dai"], "has no column 'dai'"),
        (["rows.parquet", "--tasks", "click:counts"], "click must be one of binary, regression"),
        (["rows.parquet", "--tasks", "click", "--columns", "click"], "'click' is a task, so it"),
        (["rows.parquet", "--tasks", "click", "--group", "adult"], "adult must have enough values"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_column(run, arguments, reason):
    with pytest.raises(SystemExit, match=re.escape(reason)):
        run(*arguments[1:], file=arguments[0])
