"""The importance of columns: a known rule, errors over rows and groups, and scikit-learn's."""

import json

import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from ple_keras.tabular.importance import column_importance
from tests.helpers import once

pytestmark = once

RULE = {"stars": ["age", "city", "tags"], "like": ["age"]}
OTHERS = [f"other {i}" for i in range(3)]


def draw(rows, seed):
    """Return a table whose columns "age", with missing values, "city" and "tags" are its rule."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(rows, 3)), columns=OTHERS)
    frame["age"] = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows))
    frame["city"], frame["shop"] = rng.choice([*"abc"], rows), rng.choice([*"def"], rows)
    frame["tags"] = [["x"] * a + ["y"] * b for a, b in rng.integers(0, 2, (rows, 2))]
    age, city = frame["age"].fillna(3), frame["city"].map({"a": -1, "b": 0, "c": 1})
    frame["stars"] = age + city + 2 * frame["tags"].map(lambda tags: "x" in tags)
    frame["stars"] += 0.5 * rng.normal(size=rows)
    frame["like"] = np.where(rng.random(rows) < 0.5, age + rng.normal(size=rows) > 1, np.nan)
    return frame.assign(person=np.arange(rows) // 2)


@pytest.fixture(scope="module")
def model():
    model = pk.TabularModel({"stars": "regression", "like": "binary"}, units=(16,), seed=0)
    return model.fit(draw(1000, 0).drop(columns="person"), epochs=12, verbose=0)


@pytest.fixture(scope="module")
def found(model):
    return model.importance(draw(600, 1), repeats=3, seed=0)


def test_the_columns_of_a_rule_are_the_first(found):
    assert [*found] == ["stars", "like"]
    beyond = 0
    for task, rule in RULE.items():
        assert [*found[task]] == [*found["stars"]]  # the order of the mean over tasks
        assert {*found[task]} == {*OTHERS, "age", "city", "shop", "tags"}
        for name, each in found[task].items():
            assert (each.increase > 5 * each.error) or name not in rule
            beyond += name not in RULE["stars"] and abs(each.increase) > 2 * each.error
    assert {*[*found["stars"]][:3]} == {*RULE["stars"]}
    assert beyond <= 1  # of 8


def test_importance_is_a_table_and_json(found):
    first = str(found).splitlines()[2:4]
    assert first[0].split() == ["column", "stars", "like"]
    assert first[1].split()[:2] == ["age", f"{found['stars']['age'].increase:+.4f}"]
    assert json.loads(json.dumps(found.to_dict()))["like"]["age"].keys() == {"increase", "error"}


def test_importance_is_that_of_scikit_learn(model):
    inspection = pytest.importorskip("sklearn.inspection")
    frame = draw(300, 2).drop(columns="person")
    x, y = frame.drop(columns=[*RULE]), frame[[*RULE]]
    expected = inspection.permutation_importance(model, x, y, n_repeats=3, random_state=0)
    found = model.importance(x, y, repeats=3, seed=1)
    for name, increase in zip(x, expected.importances_mean):
        mean = np.mean([each[name].increase for each in found.values()])
        error = np.hypot(*(each[name].error for each in found.values())) / 2
        assert mean == pytest.approx(increase, abs=3 * error)


def test_errors_are_those_of_new_rows():
    """They cover both rows of a permutation."""
    rng = np.random.default_rng(0)
    columns = pk.Columns(numbers=["a"])
    increases, errors = [], []
    for seed in range(300):
        a, y = rng.normal(size=(2, 100))
        y += a

        def losses(x, y=y):
            return {"y": (y - x["numbers"][:, 0]) ** 2}

        found = column_importance(columns, {"numbers": a[:, None]}, losses, 3, seed)["y"]["a"]
        increases.append(found.increase)
        errors.append(found.error)
    assert np.mean(increases) == pytest.approx(2, abs=0.1)
    assert np.mean(errors) == pytest.approx(np.std(increases), rel=0.2)


def test_tasks_without_labels_that_differ_do_not_count(model):
    frame = draw(100, 3).assign(like=1.0)
    with pytest.warns(UserWarning, match=r"differ in these rows do not count: \['like'\]"):
        assert [*model.importance(frame, repeats=1)] == ["stars"]
    with pytest.raises(ValueError, match=r"repeats must be at least 1\. Received: repeats=0"):
        model.importance(frame, repeats=0)
