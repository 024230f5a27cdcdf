"""Columns encode requests like training rows, and refuse what they can't encode."""

import json
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from ple_keras import Columns
from tests.columns.conftest import LARGE
from tests.helpers import once
from tests.processes import ROOT, run_to_end

pytestmark = once

IDS, NUMBERS = ["user", "item", "adult"], ["age", "price"]
LISTS = {"genres": ("genres", 3), "history": ("item", 4)}
MORE = {"texts": {"title": ("words", 3)}, "logs": ["votes"], "required": ["votes", "title"]}


@pytest.fixture(scope="module")
def columns(frame):
    return Columns(IDS, NUMBERS, LISTS, **MORE).fit(frame, min_rows=2)


def test_zero_is_missing_one_is_unknown_and_known_values_follow(columns, frame):
    x = columns.transform(frame)
    assert columns.known["user"] == [LARGE, LARGE + 1]
    assert x["user"].tolist() == [2, 3, 0, 2, 3, 1]
    assert x["item"].tolist() == [2, 3, 0, 2, 3, 1]
    assert x["adult"].tolist() == [3, 0, 2, 3, 3, 2]
    assert x["genres"].tolist() == [[3, 2, 0], [0] * 3, [0] * 3, [3, 0, 0], [2, 0, 0], [1, 2, 0]]
    assert columns.known["words"] == ["2nd", "end", "the", "élan"]  # the first three words count
    assert x["title"].tolist() == [[4, 2, 4], [0] * 3, [0] * 3, [3, 4, 0], [5, 4, 3], [2, 5, 0]]
    assert {values.dtype.name for values in x.values()} == {"int32", "float32"}


def test_a_history_has_its_last_items_and_the_newest_is_first(columns, frame):
    history = columns.transform(frame)["history"].tolist()
    last = [1, 3, 2, 0], [2, 3, 3, 2], [3, 3, 0, 0]
    assert history == [[2, 0, 0, 0], [0] * 4, [0] * 4, *last]


def test_numbers_are_scaled_and_have_quantiles(columns, frame):
    price = columns.transform(frame)["price"]
    values = np.array([1, np.nan, 3, 4, 5, 6])
    mean, deviation = np.mean([3, 3, 4, 5, 5]), np.std([3, 3, 4, 5, 5])  # without the ends
    np.testing.assert_allclose(price, (values - mean) / deviation, rtol=1e-6)
    for large in (1e30, 1e300):  # finite in float32
        scaled = (large - mean) / deviation
        with pytest.warns(UserWarning, match=r"1% of the rows have numbers .*: price \(100%\)"):
            x = columns.transform(frame.assign(price=large))["price"]
        np.testing.assert_allclose(x, min(scaled, np.finfo("float32").max), rtol=1e-6)
    logs = np.log10([1, 10, np.nan, 100, 1000, 10])
    votes = (logs - np.mean([1, 1, 1, 2, 2])) / np.std([1, 1, 1, 2, 2])
    np.testing.assert_allclose(columns.transform(frame)["votes"], votes, rtol=1e-6)
    assert columns.quantiles["price"][::4] == [1, 3, 4, 5, 6]
    np.testing.assert_allclose(np.expm1(columns.quantiles["votes"][::8]), [0, 9, 999], atol=1e-9)


def test_one_wrong_number_spoils_no_column():
    random = np.random.default_rng(0)
    clean = {"x": random.normal(size=1000), "amount": random.poisson(0.002, 1000)}
    clean = pd.DataFrame(clean).assign(age=np.arange(1000.0))
    expected = Columns(numbers=[*clean]).fit(clean)
    for wrong in (1e9, -1e9, 1e30):
        frame = clean.assign(x=[wrong, *clean["x"][1:]])
        scales = Columns(numbers=[*clean]).fit([frame[:300], frame[300:]]).scales
        for name in clean:
            mean, deviation = expected.scales[name][:2]
            assert scales[name][0] == pytest.approx(mean, abs=0.01 * deviation)
            assert scales[name][1] == pytest.approx(deviation, rel=0.01)
            assert deviation == pytest.approx(clean[name].std(), rel=0.01)


def test_quantiles_of_a_stream_are_those_of_a_sample(monkeypatch):
    module = sys.modules[Columns.__module__]
    monkeypatch.setattr(module, "MAX_ROWS", 4000)
    frames = (pd.DataFrame({"x": np.full(500, i / 100)}) for i in range(100))
    quantiles = Columns(numbers=["x"]).fit(frames).quantiles["x"]
    np.testing.assert_allclose(quantiles, np.linspace(0, 1, 17), atol=0.03)


def test_rows_without_required_values_or_with_numbers_far_from_training_are_refused(columns):
    with pytest.raises(ValueError, match=r"must be names of columns. Received: required=\['x'\]"):
        Columns(["user"], required=["user", "x"])
    row = columns.example()
    assert columns.refusals([row, row | {"age": None, "votes": 0, "price": 11}]) == []
    assert columns.refusals([row, row | {"title": None, "votes": -1, "age": 90.5}]) == [
        "rows[1].age: it must be a number between -30 and 90. Received: 90.5",
        "rows[1].votes: it must be a number between 0 and 1998. Received: -1",
        "rows[1].title: a value is required. Received: None",
    ]
    wrong = {"age": "30", "user": "x", "adult": 1, "title": 3, "genres": "new", "history": [1]}
    assert columns.refusals([row | wrong]) == [
        "rows[0].user: it must be a whole number. Received: 'x'",
        "rows[0].adult: it must be a boolean. Received: 1",
        "rows[0].age: it must be a number between -30 and 90. Received: '30'",
        "rows[0].genres: it must be a list of strings. Received: 'new'",
        "rows[0].history: it must be a list of strings. Received: [1]",
        "rows[0].title: it must be a string. Received: 3",
    ]
    del row["age"]
    absent = [f"rows[0].{name}: a value, or null, is required" for name in columns.names]
    assert columns.refusals([[], row]) == [*absent, "rows[1].age: a value, or null, is required"]


def test_numbers_that_hardly_vary_next_to_their_size_are_scaled():
    times = 1.7e12 + np.arange(0, 60_001, 100.0)  # of a minute, in milliseconds
    frame = pd.DataFrame({"time": times, "rate": 0.1})
    for frames in (frame, [frame[:1], frame[1:200], frame[200:]]):
        x = Columns(numbers=["time", "rate"]).fit(frames).transform(frame.assign(rate=0.1000001))
        np.testing.assert_allclose(x["time"], (times - times.mean()) / times.std(), atol=0.01)
        np.testing.assert_allclose(x["rate"], 1e-7, rtol=1e-6)


def test_batches_give_the_encoding_of_all_rows_and_the_same_file(columns, frame, tmp_path):
    batches = [frame[:2], frame[2:3], frame[3:]]
    in_batches = Columns(IDS, NUMBERS, LISTS, **MORE).fit(iter(batches), min_rows=2)
    assert in_batches.known == columns.known
    for name, scale in columns.scales.items():
        np.testing.assert_allclose(in_batches.scales[name], scale)
    columns.save(tmp_path / "columns.json")
    copy = Columns.load(tmp_path / "columns.json")
    for name, values in columns.transform(frame).items():
        np.testing.assert_array_equal(values, copy.transform(frame)[name], strict=True)
    copy.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "columns.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"item": [*"uvwxyz"], "history": None}, ValueError, "item must have a value .*rows=2"),
        ({"history": [[1]] * 6}, TypeError, "history must contain only strings. .* history=1"),
        ({"age": np.nan}, ValueError, "age must .* finite numbers"),
        ({"genres": "new"}, TypeError, "genres .*lists.* `texts`. Received: genres='new'"),
        ({"age": [1, True, "1_000"] * 2}, TypeError, "age must contain numbers. .* age='1_000'"),
    ],
)
def test_columns_that_cannot_be_encoded_are_refused(frame, changes, error, reason):
    with pytest.raises(error, match=reason), np.errstate(all="ignore"):
        Columns(IDS, NUMBERS, LISTS, **MORE).fit(frame.assign(**changes), min_rows=2)


def test_rows_of_text_for_lists_are_refused_and_objects_of_numpy_are_plain_values(columns, frame):
    with pytest.raises(TypeError, match=r"history must .*lists.* history='ab'"):
        columns.transform([columns.example() | {"history": "ab"}])
    objects = pd.Series([np.int64(7), np.int64(8), None] * 2, dtype="object")
    assert Columns(["user"]).fit(frame.assign(user=objects), min_rows=2).known["user"] == [7, 8]


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"user": 1.0}, TypeError, "user must contain only whole numbers.*Int64.* user=1.0"),
        ({"user": "7"}, TypeError, "user must contain only whole numbers. Received: user='7'"),
        ({"user": True}, TypeError, "user must contain only whole numbers. Received: user=True"),
        ({"adult": 1}, TypeError, "adult must contain only booleans. Received: adult=1"),
        ({"item": 1}, TypeError, "item must contain only strings. Received: item=1"),
        ({"title": 3}, TypeError, "title must contain text. Received: title=3"),
        ({"age": "1_000"}, TypeError, "age must contain numbers. Received: age='1_000'"),
        ({"votes": -1}, ValueError, "votes must be at least 0. Received: votes=-1.0"),
    ],
)
def test_values_of_other_types_than_in_training_are_refused_in_frames_and_requests(
    columns, frame, changes, error, reason
):
    for rows in (frame.assign(**changes), [columns.example() | changes]):
        with pytest.raises(error, match=reason):
            columns.transform(rows)


@pytest.mark.parametrize("rows", [{"user": 1}, [{"user": 1}], "user", [1], [[]]])
def test_rows_without_a_column_are_refused(columns, rows):
    with pytest.raises(ValueError, match="Each row must be a dict with a value, or None, for '"):
        columns.transform(rows)


def test_columns_that_are_not_fitted_are_refused(frame, tmp_path):
    columns = Columns(["user"])
    for use in (columns.transform, columns.refusals, columns.save):
        with pytest.raises(ValueError, match="Call fit first"):
            use(frame)
    for use in (columns.network, columns.example):
        with pytest.raises(ValueError, match="Call fit first"):
            use()


@pytest.mark.parametrize("name", [7, None, ("a", "b")])
def test_names_of_columns_that_no_model_can_have_are_refused(name):
    with pytest.raises(ValueError, match=r"must be strings. Rename them. Received: \["):
        Columns([name])


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"ids": ["user"], "logs": ["user"]}, ValueError, r"named twice. Received: \['user'\]"),
        ({"ids": "user"}, TypeError, "ids must be a list of names. Received: ids='user'"),
        ({"required": "user"}, TypeError, "required must be a list of names"),
        ({"lists": {"tags": "tags"}}, ValueError, "lists must be {name: .* lists"),
        ({"lists": {"tags": ("tags", 0)}}, ValueError, "lengths of at least 1. .*'tags', 0"),
        ({"texts": {"title": ("words", 2.5)}}, ValueError, "texts must be {name: "),
    ],
)
def test_arguments_that_describe_no_columns_are_refused(arguments, error, reason):
    with pytest.raises(error, match=reason):
        Columns(**arguments)


def test_the_encoder_needs_only_numpy():
    """A service can copy the file of the encoder."""
    code = "import sys, columns; print({*sys.modules} & {'keras', 'pandas', 'ple_keras'})"
    assert run_to_end("-c", code, cwd=ROOT / "ple_keras" / "columns") == "set()\n"


def test_a_file_of_a_later_version_has_the_same_codes(columns, frame, tmp_path):
    file = tmp_path / "columns.json"
    columns.save(file)
    parts = json.loads(file.read_text())
    assert {*parts} - {*columns.__dict__} == set()
    file.write_text(json.dumps(parts | {"later": {"age": [1, 2]}}))
    copy = Columns.load(file)
    assert copy.digest == columns.digest
    for name, values in columns.transform(frame).items():
        np.testing.assert_array_equal(copy.transform(frame)[name], values)
    del parts["rows"]
    for wrong in ([], {}, parts):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"from Columns.save of ple_keras 0.8.0 .*'rows'"):
            Columns.load(file)


def test_a_digest_changes_with_codes_and_scales_alone(columns, frame):
    def digest(frame=frame, min_rows=2, **arguments):
        return Columns(**options | arguments).fit(frame, min_rows).digest

    options = {"ids": IDS, "numbers": NUMBERS, "lists": LISTS, **MORE}
    assert digest(required=[], ids=IDS[::-1]) == columns.digest
    assert digest(frame[::-1]) == columns.digest
    others = [digest(frame.assign(**{name: other})) for name, other in (("age", 1), ("item", "c"))]
    others += [digest(min_rows=1), digest(numbers=["age"])]
    others += [digest(logs=["votes", "price"]), digest(lists={**LISTS, "genres": ("genres", 2)})]
    assert len({columns.digest, *others}) == 7


def test_columns_print_a_table(columns):
    assert str(columns).splitlines() == [
        "column   kind    known values or limits  missing",
        "user     id                           2    16.7%",
        "item     id                           2    16.7%",
        "adult    id                           2    16.7%",
        "age      number               -30 to 90    16.7%",
        "price    number                -4 to 11    16.7%",
        "votes    log                  0 to 1998    16.7%",
        "genres   list                         2    33.3%",
        "history  list                 2 of item    33.3%",
        "title    text                4 of words    33.3%",
    ]
    assert str(Columns(["user"])).splitlines()[1] == "user    id"


def test_large_integers_have_their_deviation_and_huge_numbers_are_refused():
    x = 10**15 + np.arange(900)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns = Columns(numbers=["x"]).fit(pd.DataFrame({"x": x}))
    assert columns.scales["x"][1] == pytest.approx(x.std(), rel=1e-2)
    with pytest.raises(ValueError, match=r"x must contain finite numbers, from -3.4e\+38"):
        Columns(numbers=["x"]).fit(pd.DataFrame({"x": [1.0, 1e300] * 5}))
