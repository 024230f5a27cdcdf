"""The benchmark of false statements: its page, and a small run."""

import json

import numpy as np
import pytest

from examples.benchmarks import false_statements
from tests.helpers import once

pytestmark = once
KEPT = json.loads(false_statements.KEPT.read_text())


def test_the_page_has_the_kept_counts():
    page = false_statements.PAGE.read_text()
    for name, table in false_statements.tables_of(KEPT).items():
        assert f"<!-- {name} -->\n\n```text\n{table}\n```" in page


def test_at_most_five_percent_of_test_sets_have_a_false_statement():
    for name, pairs in KEPT["false"].items():
        is_known = "as rows" in name or "large labels" in name  # more are false, as the page says
        assert is_known or np.max(np.array(pairs)[..., 2:]) <= 5


def test_pairs_have_their_gains_and_statements(monkeypatch):
    monkeypatch.setattr(false_statements, "ROWS", 5000)
    monkeypatch.setattr(false_statements, "DRAWS", 20)
    monkeypatch.setattr(false_statements, "DEVIATIONS", {"noise": None})
    pairs = dict(false_statements.populations([-1.0]))
    assert pairs.keys() == false_statements.LABELS.keys()
    pair = pairs["persons of ten rows"]
    assert pair.compare().gain == pytest.approx(-1, abs=1e-4)
    better = pair._replace(first=pair.y)
    assert false_statements.count(better, 2000, True) == [100, 100, 0, 0]
    assert len(dict(false_statements.lacking())) == 6
