"""The counts of the service, and the changes that `drift` reports."""

import json

import numpy as np
import pytest
from serving.drift import count_values, drift

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
