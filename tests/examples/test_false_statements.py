"""The benchmark of false statements: its page, and a small run."""

import json

import numpy as np
import pytest

from tests.helpers import once

pytest.importorskip("pandas")
from examples.benchmarks import false_statements

pytestmark = once
KEPT = json.loads(false_statements.KEPT.read_text())


def test_the_page_has_the_kept_counts():
    page = false_statements.PAGE.read_text()
    for name, table in false_statements.tables_of(KEPT).items():
        assert f"<!-- {name} -->\n\n```text\n{table}\n```" in page


def test_at_most_five_percent_of_test_sets_have_a_false_statement():
    for name, by_size in KEPT["sizes"].items():
        worst = np.max([counts for pairs in by_size.values() for counts in pairs], axis=0)
        assert "as rows" in name or max(worst[2], worst[4]) <= 5


def test_pairs_have_their_gains_and_statements(monkeypatch):
    monkeypatch.setattr(false_statements, "ROWS", 5000)
    monkeypatch.setattr(false_statements, "DRAWS", 20)
    pairs = dict(false_statements.generated())
    assert pairs.keys() == false_statements.LABELS.keys()
    pair = pairs["persons of ten rows"]
    assert pair.gain() == pytest.approx(-1.5)
    better = pair._replace(losses=pair.losses / 2)
    rows = np.arange(5000)
    gain, made, *false = false_statements.count(better, 1000, rows, better.gain())
    assert (round(gain, 2), made, false) == (49.25, 100, [0, 0, 0])
