"""New values get the free rows of tables, and nothing else of columns changes."""

import numpy as np
import pandas as pd
import pytest

from ple_keras.columns import columns as module
from ple_keras.columns.columns import Columns
from tests.helpers import once

pytestmark = once

LISTS = {"history": ("item", 4), "genres": ("genres", 2)}


@pytest.fixture(scope="module")
def columns(frame):
    texts = {"title": ("words", 3)}
    return Columns(["user", "item"], ["age"], LISTS, texts, ["votes"]).fit(frame, 2, spare_rows=0.6)


def day_of(frame, **changes):
    return frame.assign(**{"item": "z", "history": [["y", "z"]] + [["rare"]] * 5, **changes})


def test_known_values_keep_their_codes_and_new_ones_follow_in_free_rows(columns, frame, tmp_path):
    assert columns.rows == {name: 2 + n + -(-n * 3 // 5) for name, n in sizes(columns).items()}
    before = dict(vars(columns), digest=columns.digest)
    day = day_of(frame, age=80, title="New, new")
    with pytest.raises(ValueError, match=r"min_rows=2, .* too many values: {'item': 1}"):
        columns.update(day.assign(history=[["y", "y", "k", "k"]] * 6), min_rows=2)
    columns.save(tmp_path / "columns.json")
    for each in (columns, Columns.load(tmp_path / "columns.json")):
        updated = each.update(iter([day[:3], day[3:]]), min_rows=6)
        assert updated.known["item"] == [*columns.known["item"], "rare", "z"]
        assert updated.known["words"] == [*columns.known["words"], "new"]
        assert updated.known["user"] == columns.known["user"]
        for name in ("scales", "quantiles", "missing", "rows"):
            assert getattr(updated, name) == before[name]
        assert updated.previous == columns.digest != updated.digest
    assert dict(vars(columns), digest=columns.digest) == before
    x, old = (each.transform(day)["history"] for each in (updated, columns))
    assert (x[0].tolist(), old[0].tolist()) == ([5, 1, 0, 0], [1, 1, 0, 0])
    updated.save(tmp_path / "updated.json")
    again = Columns.load(tmp_path / "updated.json").update(day, min_rows=100)
    assert (again.previous, again.known) == (updated.digest, updated.known)
    assert updated.fit(frame, 2).previous == ""


def sizes(columns):
    return {name: len(known) for name, known in columns.known.items()}


def test_values_are_counted_from_the_fit_on(columns, frame, tmp_path, monkeypatch):
    assert dict(columns.rare["item"]) == {"rare": 1, "x": 1}
    columns.save(tmp_path / "columns.json")
    day = frame[:3].assign(item=["x", "x", "y"], history=None)
    updated = Columns.load(tmp_path / "columns.json").update(day, min_rows=3)
    assert updated.known["item"] == [*columns.known["item"], "x"]
    assert dict(updated.rare["item"]) == {"y": 1, "rare": 1}
    monkeypatch.setattr(module, "MAX_RARE", 1)
    assert columns.update(day, min_rows=4).rare["item"] == [("x", 3)]
    assert updated.update(day[2:].assign(item="v"), 4).rare["item"] == [("v", 1)]  # the newest
    updated.rare.clear()
    assert updated.update(day[:1], min_rows=2).known == updated.known


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda day: day[:0], ValueError, "frames must have at least one row"),
        (lambda day: iter([]), ValueError, "frames must have at least one row"),
        (lambda day: day.drop(columns="genres"), ValueError, "must have the column 'genres' once"),
        (lambda day: day.assign(history=[[1]] * 6), TypeError, "history must contain only strings"),
    ],
)
def test_frames_that_cannot_be_read_are_refused(columns, frame, change, error, reason):
    with pytest.raises(error, match=reason):
        columns.update(change(frame))


def test_wrong_arguments_are_refused(frame):
    with pytest.raises(ValueError, match="Call fit first"):
        Columns(["user"]).update(frame)
    for spare_rows in (-1, np.nan, np.inf, "1", None):
        with pytest.raises(
            ValueError, match=r"spare_rows must .* at least 0. Received: spare_rows="
        ):
            Columns(["user"]).fit(pd.DataFrame({"user": [1] * 5}), spare_rows=spare_rows)
