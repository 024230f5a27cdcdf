"""The comparison on later years and new ids: its parts, and its page."""

import numpy as np
import pandas as pd
import pytest

from examples.benchmarks import new_rows
from tests.helpers import once
from tests.processes import ROOT

pytestmark = once

PAGE = ROOT / "docs" / "maintainers" / "new_rows.md"


@pytest.mark.parametrize("years", [None, (9, 15)])
def test_new_rows_have_other_values_and_a_validation_can_have_others_too(years):
    frame = pd.DataFrame({"key": np.repeat(np.arange(20), 10)})
    table = new_rows.Table(frame, [], [], "key", years)
    parts = [new_rows.split(table, 0, is_new) for is_new in (False, True)]
    old, new = ([set(frame["key"].iloc[rows]) for rows in each] for each in parts)
    assert not old[0] & old[3]
    assert old[1] <= old[0]
    assert not new[1] & (new[0] | new[3])
    if years:
        assert max(old[0]) <= 9
        assert min(old[3]) == 15
    for each in parts:
        rows = np.concatenate(each)
        assert len({*rows}) == len(rows)
    for place in (0, 2, 3):  # the same with both validations
        assert parts[0][place].tolist() == parts[1][place].tolist()


def test_the_page_has_the_kept_tables(capsys):
    new_rows.main([])
    page = PAGE.read_text()
    for table in capsys.readouterr().out.strip("\n").split("\n\n"):
        assert table.partition("\n")[2] in page
