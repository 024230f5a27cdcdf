"""Parameters of tests instead of all combinations, which take long and find nothing more."""

from itertools import cycle, islice

import pytest

from tests.helpers import once


def fewer(table, *names):
    """Return parameters that contain each entry of a table `{id: value or tuple of values}`.

    If the backend does not matter, entries without a given name run once.
    """
    return [
        pytest.param(*_values(entry), id=name, marks=[] if name in names else once)
        for name, entry in table.items()
    ]


def _values(entry):
    return entry if type(entry) is tuple else (entry,)


def pairs(*tables):
    """Return parameters that contain each entry of each table `{id: value or tuple of values}`.

    They are as many as the entries of the longest table. Entries of other tables repeat.
    """
    length = max(map(len, tables))
    rows = zip(*(islice(cycle(table.items()), length) for table in tables))
    return [
        pytest.param(
            *(value for _, entry in row for value in _values(entry)),
            id="-".join(name for name, _ in row),
        )
        for row in rows
    ]
