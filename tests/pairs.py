"""Parameters of tests in place of all combinations, which take long and find nothing more."""

from itertools import cycle, islice

import pytest


def pairs(*tables):
    """Return parameters that contain each entry of each table `{id: value or tuple of values}`.

    Their number is that of the longest table. The entries of the others repeat.
    """
    length = max(map(len, tables))
    rows = zip(*(islice(cycle(table.items()), length) for table in tables))
    return [
        pytest.param(
            *(value for _, entry in row for value in (entry if type(entry) is tuple else (entry,))),
            id="-".join(name for name, _ in row),
        )
        for row in rows
    ]
