"""The counts of the service, and the changes that `drift` reports."""

import json

import numpy as np
import pytest
from serving.drift import count_values, drift, to_json

from tests.helpers import once

pytestmark = once


def test_rows_with_missing_and_unknown_values_are_counted():
    x = {
        "user": np.array([2, 1, 0, 3], "int32"),
        "history": np.array([[2, 0], [2, 1], [0, 0], [0, 0]], "int32"),
        "age": np.array([1, np.nan, -1, 2], "float32"),
    }
    counts = count_values(x)
    assert counts["rows"] == 4
    assert counts["user, unknown"] == counts["user, missing"] == counts["age, missing"] == 1
    assert (counts["history, missing"], counts["history, unknown"]) == (2, 1)
    assert counts["age, above the mean"] == 2
    assert counts["history, codes"][:3].tolist() == [0, 0, 2]
    assert counts["age, number"].tolist() == [3, 2, 6, 8, 18]  # sums of powers


def test_the_drift_report_names_the_shares_that_changed(tmp_path):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    old = {"rows": 1000, "user, unknown": 10, "user, missing": 0, "age, above the mean": 500}
    before.write_text(json.dumps(old))
    after.write_text(json.dumps(old | {"user, unknown": 12, "age, above the mean": 520}))
    assert drift(before, after) == []
    after.write_text(
        json.dumps(old | {"rows": 500, "user, unknown": 50, "age, above the mean": 250})
    )
    assert drift(before, after) == ["user, unknown: 1.0% of the rows before, 10.0% after"]
    after.write_text('{"rows": 0}')
    with pytest.raises(ValueError, match="counts of rows"):
        drift(before, after)


RNG = np.random.default_rng(0)
ROWS = {
    "age": RNG.normal(size=2000).astype("float32"),
    "tags": RNG.integers(2, 1200, (2000, 3)).astype("int32"),
}
LABELS = {"hours": np.where(ROWS["age"] > 0, 5 + RNG.normal(size=2000), np.nan)}
SEVENS = np.concatenate([ROWS["tags"][:, :2], np.full((2000, 1), 7, "int32")], 1)
SHIFTS = {
    "other rows of the same kind": ({"age": ROWS["age"][::-1]}, 1, ""),
    "wider numbers": ({"age": 1.2 * ROWS["age"]}, 1, "age, number: a deviation of 1 to 1.2"),
    "one entry in a third of the places": ({"tags": SEVENS}, 1, "tags, code 7: 0.1% to 33.5%"),
    "doubled labels": ({}, 2, "hours, label: a mean of 5.01 to 10, a deviation of 0.999 to 2"),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_the_drift_report_names_the_shifts_of_values_and_labels(name, tmp_path):
    x, factor, expected = SHIFTS[name]
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(to_json(count_values(ROWS, LABELS)))
    later = count_values(ROWS | x, {"hours": factor * LABELS["hours"]})
    earlier = count_values({"tags": np.zeros((10, 3), "int32")})
    after.write_text(to_json({"00000009": earlier, "00000010": later}))  # of a service
    text = ", ".join(drift(before, after)).replace(", hours, label:", ",").replace(" after", "")
    assert text.replace(" of the entries", "").replace(" before,", " to") == expected
    assert drift(before, after, "00000009")
