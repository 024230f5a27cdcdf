"""Kinds, codes and errors for odd frames of pandas and polars."""

import datetime
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from ple_keras import Columns
from tests.columns.conftest import LARGE
from tests.helpers import once

pytestmark = once
pa = pytest.importorskip("pyarrow")

DAY = datetime.date(2026, 1, 1)


def arrow(values, kind):
    return pd.Series(values, dtype=pd.ArrowDtype(kind))


# A column, whether it is in `ids`, its kind, and its codes or scaled numbers.
RESULTS = {
    "unicode": (["é", "日本", "é", "日本", "é"], False, "id", [2, 3, 2, 3, 2]),
    "booleans of NumPy": (
        np.array([np.True_, np.False_, None, np.False_, np.True_], "object"),
        False, "id", [3, 2, 0, 2, 3],
    ),
    "arrow booleans": (
        arrow([True, False, None, False, True], pa.bool_()), False, "id", [3, 2, 0, 2, 3]
    ),
    "integers": ([1, 2, 3, 4, 5], False, "number", [-2, -1, 0, 1, 2]),
    "arrow integers": (
        arrow([1, 2, None, 4, 5], pa.int32()), False, "number", [-2, -1, np.nan, 1, 2]
    ),
    "large arrow integers": (
        arrow([LARGE, LARGE + 1, None, LARGE, LARGE + 1], pa.int64()), True, "id", [2, 3, 0, 2, 3]
    ),
    "integers of NumPy": (
        np.array([np.int64(7), np.int64(8), None, 7, 8], "object"), True, "id", [2, 3, 0, 2, 3]
    ),
    "decimals": ([Decimal(n) for n in "12345"], False, "number", [-2, -1, 0, 1, 2]),
    "arrow decimals": (
        arrow([Decimal(1), Decimal(2), None, Decimal(4), Decimal(5)], pa.decimal128(5, 2)),
        False, "number", [-2, -1, np.nan, 1, 2],
    ),
    "categories": (pd.Categorical(["a", "b", None, "a", "b"]), False, "id", [2, 3, 0, 2, 3]),
    "categories of integers": (pd.Categorical([1, 2, None, 1, 2]), False, "id", [2, 3, 0, 2, 3]),
    "arrow strings": (arrow(["a", "b", None, "a", "b"], pa.string()), False, "id", [2, 3, 0, 2, 3]),
    "dictionary strings": (
        arrow(["a", "b", None, "a", "b"], pa.dictionary(pa.int8(), pa.string())),
        False, "id", [2, 3, 0, 2, 3],
    ),
    "unique strings": ([f"Film no {n}" for n in range(5)], False, "text", [7, 8, 2]),
    "lists with None": ([["a", None], [], None, ["a"], ["b"] * 4], False, "list", [0, 2, 0]),
    "arrow lists": (
        arrow([[LARGE, None], [], None, [LARGE], [LARGE + 1] * 4], pa.list_(pa.int64())),
        False, "list", [0, 2, 0],
    ),
    "arrays": (
        [np.array(["a", None]), np.array([]), None, np.array(["a"]), ("b", "b")],
        False, "list", [0, 2, 0],
    ),
    "infinite numbers": ([1.0, 2.0, np.inf, 4.0, 5.0], False, ValueError, "finite .* to inf"),
    "floats as ids": ([1.0, 2.0, np.nan, 1.0, 2.0], True, TypeError, "Int64.* x=1.0"),
    "lists of floats": ([[1.0, np.nan]] * 5, False, TypeError, "pyarrow.* x=1.0"),
    "all missing": ([None] * 5, False, TypeError, "Received: x with no value"),
    "all NaN": ([np.nan] * 5, False, TypeError, "Remove it .*Received: x with no value"),
    "mixed types": (["a", 1, "a", 1, "a"], False, TypeError, "Received: x with int, str"),
    "mixed types, an id": (["a", 1, "a", 1, "a"], True, TypeError, "only strings. Received: x=1"),
    "booleans and integers": ([True, 1, 0, 1, 2], True, TypeError, "only booleans. Received: x=1"),
    "nested lists": ([[["a"]]] * 5, False, TypeError, r"Received: x=\['a'\]"),
    "dicts": ([{"a": 1}] * 5, False, TypeError, "Received: x with dict"),
    "times": (pd.date_range("2026", periods=5), False, TypeError, "x with Timestamp"),
    "float categories": (pd.Categorical([1.5, 2.5] * 2), False, TypeError, "categories of float"),
    "times as ids": (pd.date_range("2026", periods=5), True, TypeError, "x=Timestamp"),
}  # fmt: skip


def encode(frame, is_id=False):
    """Return the kind of the column "x", and its codes or scaled numbers."""
    columns = Columns.infer(frame, ids=["x"] if is_id else []).fit(frame, min_rows=2)
    kind = str(columns).splitlines()[1].split()[1]
    values = columns.transform(frame)["x"]
    request = [{"x": value} for value in frame["x"]]
    np.testing.assert_array_equal(columns.transform(request)["x"], values)  # also pd.NA
    assert columns.refusals(request) == []
    return columns, kind, values


@pytest.mark.parametrize(("values", "is_id", "kind", "expected"), RESULTS.values(), ids=RESULTS)
def test_an_odd_column_is_encoded_or_refused(values, is_id, kind, expected):
    frame = pd.DataFrame({"x": pd.concat([pd.Series(values)] * 3)})  # with an index to ignore
    if isinstance(kind, type):
        with pytest.raises(kind, match=f"x must .*{expected}"):
            encode(frame, is_id)
        return
    columns, found, codes = encode(frame, is_id)
    assert found == kind
    if kind == "number":
        mean, deviation, *_ = columns.scales["x"]
        assert mean == 3
        np.testing.assert_allclose(codes[:5] * deviation, expected, rtol=1e-6)
    elif kind == "id":
        assert codes.tolist() == expected * 3
    else:
        length = 32 if kind == "text" else 10
        assert codes[0].tolist() == expected + [0] * (length - 3)
        assert codes.shape == (15, length)


def test_odd_rows_and_names():
    frame = pd.DataFrame({"x": ["a", "b"] * 5, "y": range(10)})
    columns = Columns.infer(frame).fit(frame)
    assert columns.transform(frame[:1])["x"].tolist() == [2]
    for empty in (frame[:0], []):
        assert {name: len(x) for name, x in columns.transform(empty).items()} == {"x": 0, "y": 0}
    for few in (frame[:0], frame[:1], []):
        with pytest.raises(ValueError, match=r"x must have a value that is in min_rows=5 rows"):
            Columns(["x"]).fit(few)
    with pytest.raises(ValueError, match=r"y must contain finite numbers, .* Received: no number"):
        Columns(numbers=["y"]).fit(frame[:0])
    for wrong in (frame.rename(columns={"y": "x"}), frame[["y"]], frame.set_index("x")):
        for use in (columns.transform, Columns(["x"]).fit):
            with pytest.raises(ValueError, match="must have the column 'x' once"):
                use(wrong)
    with pytest.raises(ValueError, match="once"):
        Columns.infer(frame.rename(columns={"y": "x"}))
    with pytest.raises(ValueError, match=r"must be strings. Rename them. Received: \[3\]"):
        Columns.infer(frame.rename(columns={"y": 3}))
    with pytest.raises(ValueError, match="must have the column 'x' once"):
        Columns(["x"]).fit([{"x": "a"}])


def test_names_that_are_no_names_of_inputs_are_mapped(tmp_path):
    frame = pd.DataFrame({"user id": ["a", "b"] * 5, "größe": range(10), "📖": [["x"]] * 10})
    frame = frame.assign(user_id=frame["größe"], **{"3": 1.5, "price, $": 2, "user-id ": "a b"})
    texts = {"user-id ": ("many words", 2)}
    lists = {"📖": ("📖", 2)}
    numbers = ["größe", "user_id", "3", "price, $"]
    columns = Columns(["user id"], numbers, lists, texts).fit(frame)
    columns.save(tmp_path / "columns.json")
    assert list(columns.inputs.values()) == [
        "user_id_2", "groe", "column_3", "price", "column", "user-id"
    ]  # fmt: skip
    for each in (columns, Columns.load(tmp_path / "columns.json")):
        x = each.transform(frame)
        assert x["user_id_2"].tolist() == [2, 3] * 5
        assert {*x} == {"user_id", *columns.inputs.values()} == {*each.network().input}
        assert {*each.transform(frame, packed=True)} == {"ids", "numbers", "column", "user-id"}
        (reason,) = each.refusals([frame.to_dict("records")[0] | {"größe": 10**9}])
        assert reason.startswith("rows[0].größe: it must be a number between -9 and 18")


def test_tasks_are_left_out_and_names_are_checked():
    frame = pd.DataFrame({"user": [1, 2] * 5, "age": range(10), "like": [True, False] * 5})
    columns = Columns.infer(frame, tasks=["like"], ids=["user"])
    assert (columns.ids, columns.numbers) == (["user"], ["age"])
    for arguments, error, reason in (
        ({"ids": "user"}, TypeError, "ids must be a list of names. Received: ids='user'"),
        ({"tasks": "like"}, TypeError, "tasks must be a list of names. Received: tasks='like'"),
        ({"ids": ["usr"]}, ValueError, "must have the column 'usr' once"),
        ({"tasks": ["likes"]}, ValueError, "must have the column 'likes' once"),
    ):
        with pytest.raises(error, match=reason):
            Columns.infer(frame, **arguments)
    for rows in ("abc", [{"a": 1}]):
        with pytest.raises(TypeError, match="frame must be a frame of pandas or polars"):
            Columns.infer(rows, ids=["a"])


def test_integers_that_look_like_ids_are_named_without_ids():
    many = np.repeat(np.arange(100), 5)
    small = dict.fromkeys(["userId", "item_id", "paid"], many % 7)
    frame = pd.DataFrame({"age": many % 99, "film": many, "score": many / 2, **small})
    with pytest.warns(UserWarning, match=r"look like ids.*\['film', 'userId', 'item_id'\]"):
        assert not Columns.infer(frame).ids
    with warnings.catch_warnings(action="error"):
        assert Columns.infer(frame, ids=["film"]).ids == ["film"]
        Columns.infer(frame[["age", "score", "paid"]])


def test_frames_of_polars_are_encoded_like_those_of_pandas():
    polars = pytest.importorskip("polars")
    values = {
        "user": [LARGE, LARGE + 1, None, LARGE, LARGE + 1],
        "adult": [True, False, None, False, True],
        "age": [1, 2, None, 4, 5],
        "price": [1.0, float("nan"), None, 4.0, 5.0],
        "cost": [Decimal("1.5"), None, Decimal(2), Decimal(3), Decimal(4)],
        "tags": [["a", None], [], None, ["a"], ["b", "b"]],
        "title": [f"Film no {n}" for n in range(5)],
        "city": ["a", "b", None, "a", "b"],
    }
    frame = polars.DataFrame(values).with_columns(polars.col("city").cast(polars.Categorical))
    columns = Columns.infer(frame, ids=["user"]).fit([frame[:3], frame[3:]], min_rows=2)
    assert columns.ids == ["user", "adult", "city"]
    assert columns.numbers == ["age", "price", "cost"]
    assert (*columns.lists, *columns.texts) == ("tags", "title")
    x = columns.transform(frame)
    expected = columns.transform(frame.to_dicts())
    assert x["user"].tolist() == [2, 3, 0, 2, 3]
    for name, each in x.items():
        np.testing.assert_array_equal(each, expected[name], strict=True)
    for name in ("day", "when"):
        with pytest.raises(TypeError, match=f"{name} must contain numbers, booleans"):
            Columns.infer(polars.DataFrame({"day": [DAY], "when": [DAY]})[[name]])
    with pytest.raises(ValueError, match="must have the column 'user' once"):
        columns.transform(frame.drop("user"))


def test_integers_that_are_too_large_for_a_float_are_refused():
    columns = Columns(numbers=["x"]).fit(pd.DataFrame({"x": range(5)}))
    assert len(columns.refusals([{"x": 10**400}])) == 1
