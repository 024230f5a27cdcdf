"""Columns of random frames: values of all kinds and dtypes, Unicode, empty and missing ones."""

import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
from hypothesis import strategies as st

from ple_keras import Columns
from tests.helpers import numpy_of, once
from tests.models import loaded

pytestmark = once

EXAMPLES = hypothesis.settings().max_examples
LENGTH, SEPARATOR = 3, " ,_-! "  # of lists and texts
WORDS = st.lists(st.text(st.sampled_from("aéß日9"), min_size=1, max_size=2), max_size=4)
FLOATS = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))
IDS = [
    (st.text(max_size=4), ["object", "string", "category"]),
    (st.integers(-(2**63), 2**63 - 1), ["Int64", "object"]),
    (st.booleans(), ["boolean", "object"]),
]
NUMBERS = [(FLOATS, ["float32", "float64", "object"]), (st.integers(-9, 9), ["Int64", "object"])]
COUNTS = st.integers(0, 10**6), ["Int64", "float64", "object"]
TEXTS = WORDS.map(SEPARATOR.join), ["object", "string"]


class Table:
    """A frame with a column of each kind, its rows as a request, and fitted columns.

    Args:
        names: The names of the columns of ids, numbers, counts, lists of the ids, and texts.
        values: The values of each column, of which the first is not missing.
        dtypes: The dtype of each column.
    """

    def __init__(self, names, values, dtypes):
        self.names, self.values = names, dict(zip(names, values))
        self.frame = pd.DataFrame(
            {name: pd.Series(self.values[name], dtype=d) for name, d in zip(names, dtypes)}
        )
        self.rows = [dict(zip(names, row)) for row in zip(*values)]
        ids, number, count, history, text = names
        lists, texts = {history: (ids, LENGTH)}, {text: ("words", LENGTH)}
        hypothesis.assume(ids != "words")
        self.columns = Columns([ids], [number], lists, texts, [count]).fit(self.frame, min_rows=1)

    def __repr__(self):
        return f"Table({self.values!r}, {[*map(str, self.frame.dtypes)]})"


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 6))
    names = draw(st.lists(st.text(min_size=1, max_size=4), min_size=5, max_size=5, unique=True))
    ids = draw(st.sampled_from(IDS))
    lists = st.lists(st.none() | ids[0], min_size=1, max_size=5), ["object"]
    columns, dtypes = [], []
    for values, kinds in (ids, draw(st.sampled_from(NUMBERS)), COUNTS, lists, TEXTS):
        first = draw(values.filter(lambda value: value == value and value != ""))
        columns.append([first, *draw(st.lists(st.none() | values, min_size=rows, max_size=rows))])
        dtypes.append(draw(st.sampled_from(kinds)))
    return Table(names, columns, dtypes)


def decoded(known, codes):
    """Return the values of codes, with None for missing ones."""
    return [[None, "unknown", *known][code] for code in codes]


def padded(values):
    return [*values, *[None] * LENGTH][:LENGTH]


def assert_equal(x, expected):
    assert x.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(x[name], values, strict=True)


@hypothesis.settings(max_examples=5 * EXAMPLES)
@hypothesis.given(tables())
def test_frames_requests_and_files_have_the_codes_and_numbers_of_the_values(table):
    check_encodings(table)
    columns = table.columns
    found = columns.transform(table.frame)
    x = {name: found[columns.inputs.get(name, name)] for name in table.names}
    ids, number, count, history, text = table.names
    known = columns.known[ids]
    assert decoded(known, x[ids]) == table.values[ids]
    expected = [padded((entries or [])[::-1]) for entries in table.values[history]]
    assert [decoded(known, codes) for codes in x[history]] == expected
    expected = [padded(each.split(SEPARATOR) if each else []) for each in table.values[text]]
    assert [decoded(columns.known["words"], codes) for codes in x[text]] == expected
    for name, function in ((number, np.float64), (count, np.log1p)):
        mean, deviation, *_ = columns.scales[name]
        values = function(np.array(table.values[name], "float64"))
        scale = np.nanmax(np.abs(values - mean))
        np.testing.assert_allclose(x[name] * deviation + mean, values, atol=1e-6 * scale + 1e-9)


def check_encodings(table):
    """Check that a frame, its requests and a file have one encoding."""
    assert table.columns.refusals(table.rows) == []
    with tempfile.TemporaryDirectory() as folder:
        table.columns.save(Path(folder) / "columns.json")
        copy = Columns.load(Path(folder) / "columns.json")
    assert (copy.digest, str(copy)) == (table.columns.digest, str(table.columns))
    for packed in (False, True):
        expected = table.columns.transform(table.frame, packed)
        for columns, rows in ((table.columns, table.rows), (copy, table.frame)):
            assert_equal(columns.transform(rows, packed), expected)


def unseen(known):
    """Return a value that is not known, of the type of the known ones. Both booleans can be."""
    longer = ["".join(known) + "x"] if isinstance(known[0], str) else []
    others = [True, False] if isinstance(known[0], bool) else range(len(known) + 1)
    return next((value for value in (*longer, *others) if value not in known), None)


@hypothesis.given(tables(), st.booleans(), st.sampled_from([None, 2]))
def test_a_network_and_its_file_predict_each_row_of_known_missing_and_unseen_values(
    table, packed, units
):
    network = table.columns.network(2, number_embedding_dim=units, packed=packed)
    new = unseen(table.columns.known[table.names[0]])
    missing = dict.fromkeys(table.names)
    rows = [*table.rows, missing, missing | {table.names[0]: new, table.names[3]: [new]}]
    predictions = network.predict_on_batch(table.columns.transform(rows, packed))
    assert np.isfinite(predictions).all()
    reverse = network.predict_on_batch(table.columns.transform(rows[::-1], packed))
    np.testing.assert_allclose(reverse[::-1], predictions, rtol=1e-6)
    if new is not None:
        assert (predictions[-1] != predictions[-2]).any()
    with tempfile.TemporaryDirectory() as folder:
        again = loaded(network, Path(folder))
    x = table.columns.transform(rows, packed)
    np.testing.assert_array_equal(numpy_of(again(x)), numpy_of(network(x)))
