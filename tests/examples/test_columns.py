"""The encoder of the examples encodes requests like the training rows."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from columns import Columns, copy_rows, count_values, drift, keras_inputs

import ple_keras as pk
from tests.helpers import assert_same, once
from tests.models import loaded
from tests.processes import EXAMPLES, run_to_end

LARGE = 2**60  # no float equals LARGE + 1
IDS, NUMBERS = ["user", "item", "adult"], ["age", "price"]
LISTS = {"genres": ("genres", 3), "history": ("item", 4)}
MORE = {"texts": {"title": ("words", 3)}, "logs": ["votes"], "required": ["votes", "title"]}


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(
        {
            "user": pd.array([LARGE, LARGE + 1, None, LARGE, LARGE + 1, LARGE + 2], "Int64"),
            "item": ["a", "b", None, "a", "b", "rare"],
            "adult": pd.array([True, None, False, True, True, False], "boolean"),
            "age": [30.0, np.nan, 50.0, 40.0, 20.0, 10.0],
            "price": pd.array([1, None, 3, 4, 5, 6], "Int64"),
            "genres": [["new", "old"], [], None, ["old"], ["new"], ["new", "other"]],
            "history": [np.array(["a"]), [], None, [*"abx"], [*"aababba"], ["b", "b"]],
            "title": [
                "The 2nd, the_End!",
                None,
                "",
                "END (the)",
                "Élan: the end of 2nd",
                "2nd élan",
            ],
            "votes": pd.array([0, 9, None, 99, 999, 9], "Int64"),
        }
    )


@pytest.fixture(scope="module")
def columns(frame):
    return Columns(IDS, NUMBERS, LISTS, **MORE).fit(frame, min_rows=2)


def as_request(frame, missing=None):
    """Return the rows as a service reads them from JSON."""
    return [
        {
            name: [*value] if np.ndim(value) else missing if pd.isna(value) else value
            for name, value in row.items()
        }
        for row in frame.astype("object").to_dict("records")
    ]


@once
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


@once
def test_a_history_has_its_last_items_and_the_newest_is_first(columns, frame):
    history = columns.transform(frame)["history"].tolist()
    last = [1, 3, 2, 0], [2, 3, 3, 2], [3, 3, 0, 0]
    assert history == [[2, 0, 0, 0], [0] * 4, [0] * 4, *last]


@once
def test_numbers_are_scaled_and_clipped(columns, frame):
    price = columns.transform(frame)["price"]
    values = np.array([1, np.nan, 3, 4, 5, 6])
    expected = (values - np.nanmean(values)) / np.nanstd(values)
    np.testing.assert_allclose(price, expected, rtol=1e-6)
    assert columns.transform(frame.assign(price=1e30))["price"].tolist() == [5.0] * 6
    logs = np.log10([1, 10, np.nan, 100, 1000, 10])
    votes = (logs - np.nanmean(logs)) / np.nanstd(logs)
    np.testing.assert_allclose(columns.transform(frame)["votes"], votes, rtol=1e-6)


@once
def test_rows_without_required_values_or_with_numbers_far_from_training_are_refused(columns):
    with pytest.raises(ValueError, match=r"required must name columns. Received: \['x'\]"):
        Columns(["user"], required=["user", "x"])
    row = columns.example()
    assert columns.refusals([row, row | {"age": None, "votes": 0, "price": 11}]) == []
    assert columns.refusals([row, row | {"title": None, "votes": -1, "age": 90.5}]) == [
        "rows[1].title: a value is required. Received: None",
        "rows[1].age: it must lie between -30 and 90. Received: 90.5",
        "rows[1].votes: it must lie between 0 and 1998. Received: -1",
    ]


@once
def test_numbers_that_hardly_vary_next_to_their_size_are_scaled():
    times = 1.7e12 + np.arange(0, 60_001, 100.0)  # of a minute, in milliseconds
    frame = pd.DataFrame({"time": times, "rate": 0.1})
    for frames in (frame, [frame[:1], frame[1:200], frame[200:]]):
        x = Columns(numbers=["time", "rate"]).fit(frames).transform(frame.assign(rate=0.1000001))
        np.testing.assert_allclose(x["time"], (times - times.mean()) / times.std(), atol=1e-6)
        np.testing.assert_allclose(x["rate"], 1e-7, rtol=1e-6)


@once
@pytest.mark.parametrize("missing", [None, np.nan])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 3), slice(3, 4)])
def test_a_request_is_encoded_as_a_frame(columns, frame, rows, missing):
    part = frame.iloc[rows]
    of_frame = columns.transform(part)
    of_request = columns.transform(as_request(part, missing))
    assert of_frame.keys() == of_request.keys()
    for name, values in of_frame.items():
        np.testing.assert_array_equal(values, of_request[name], strict=True)


@once
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


@once
@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"user": [1.0, np.nan] * 3}, TypeError, "user must .* strings, .* Received: float"),
        ({"item": ["a", 1] * 3}, TypeError, "item must .* one type.* Received: int, str"),
        ({"item": [*"uvwxyz"], "history": None}, ValueError, "item must have a value in .*rows=2"),
        ({"age": np.nan}, ValueError, "age must .* finite numbers"),
        ({"age": [1.0, np.inf] * 3}, ValueError, "age must .* finite numbers"),
        ({"genres": "new"}, TypeError, "genres .*lists.* `texts`. Received: genres='new'"),
        ({"title": 3}, TypeError, "title must contain text. Received: title=3"),
        ({"votes": -1}, ValueError, "votes must be at least 0. Received: votes=-1.0"),
        ({"age": "old"}, TypeError, "age must contain numbers.* Received: age='old'"),
    ],
)
def test_columns_that_cannot_be_encoded_are_refused(frame, changes, error, reason):
    with pytest.raises(error, match=reason), np.errstate(all="ignore"):
        Columns(IDS, NUMBERS, LISTS, **MORE).fit(frame.assign(**changes), min_rows=2)


@once
def test_rows_of_text_for_lists_are_refused_and_objects_of_numpy_are_plain_values(columns, frame):
    with pytest.raises(TypeError, match=r"history must .*lists.* history='ab'"):
        columns.transform([row | {"history": "ab"} for row in as_request(frame)])
    objects = pd.Series([np.int64(7), np.int64(8), None] * 2, dtype="object")
    assert Columns(["user"]).fit(frame.assign(user=objects), min_rows=2).known["user"] == [7, 8]


@once
@pytest.mark.parametrize("name", ["a/b", "a.b", "0", "user"])
def test_names_of_columns_that_no_model_can_have_are_refused(name):
    with pytest.raises(ValueError, match=rf"must .* Received: \['{name}'\]"):
        Columns(["user"], [name])


@once
def test_rows_with_missing_and_unknown_values_are_counted(columns, frame):
    counts = count_values(columns.transform(frame))
    assert counts["rows"] == 6
    assert counts["user, unknown"] == counts["user, missing"] == counts["age, missing"] == 1
    assert (counts["history, missing"], counts["history, unknown"]) == (2, 1)
    assert counts["age, above the mean"] == 2


@once
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


@once
def test_the_encoder_needs_only_numpy():
    code = "import sys, columns; print({*sys.modules} & {'keras', 'pandas', 'ple_keras'})"
    assert run_to_end("-c", code, cwd=EXAMPLES) == "set()\n"


def model_of(columns, own=None):
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    inputs, network = keras_inputs(columns, 4, 0.5, own)
    features = network if own else pk.StreamFeatures(heads, network)(inputs)
    return pk.MultiTaskModel(inputs, heads(pk.HedgedBlock(heads, [8])(features))), network


def test_branches_have_copies_of_the_feature_network(columns, frame):
    keras.utils.set_random_seed(0)
    model, network = model_of(columns)
    x = columns.transform(frame)
    pk.check_inputs(model, x)
    model.compile(pk.table_optimizer("adam"))
    y = {"click": np.array([0, 1, 0, 1, 1, 0]), "time": np.arange(6.0)}
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    tables = [w for w in model.trainable_variables if "_table" in w.path]
    assert len(tables) == 3 * 5  # two tasks and the shared branch; user, item, adult, genres, words
    assert network.output_shape == (None, 4 * 6 + 2 * 3)


@once
def test_own_tables_have_their_own_widths(columns, frame, tmp_path):
    model, features = model_of(columns, own={"click": 1, "time": 2})
    assert {s: tensor.shape[1] for s, tensor in features.items()} == {
        "click": 6 * 1 + 6, "time": 6 * 2 + 6, "shared": 6 * 4 + 6
    }  # fmt: skip
    widths = [w.shape[1] for w in model.trainable_variables if "_table" in w.path]
    assert sorted(widths) == [1] * 5 + [2] * 5 + [4] * 5
    x = columns.transform(frame)
    assert_same(loaded(model, tmp_path).predict_on_batch(x), model.predict_on_batch(x))


def test_a_list_is_the_mean_of_rows_of_the_table_of_its_column(columns, frame):
    _, network = model_of(columns)
    features = keras.ops.convert_to_numpy(network(columns.transform(frame)))
    item, history = features[:, 4:8], features[:, 16:20]
    np.testing.assert_allclose(history[0], item[0], rtol=1e-6)  # "a"
    np.testing.assert_allclose(history[4], (item[0] + item[1]) / 2, rtol=1e-5)  # two of each
    assert not history[1].any()
    assert features[:, -3].tolist() == [0, 1, 0, 0, 0, 0]  # the missing age


@once
def test_columns_of_one_kind_make_a_network(frame):
    for options in ({"ids": ["user"]}, {"numbers": ["age"]}, {"lists": {"genres": ("genres", 2)}}):
        columns = Columns(**options).fit(frame, min_rows=1)
        _, network = keras_inputs(columns, width=3)
        assert network.predict(columns.transform(frame), verbose=0).shape[0] == 6


@once
def test_the_codes_of_another_encoding_are_refused_by_the_name_of_their_column(columns, frame):
    other = Columns(IDS, NUMBERS, LISTS, **MORE).fit(frame, min_rows=1)
    x = columns.transform(frame) | {"item": other.transform(frame)["item"] + 1}
    with pytest.raises(ValueError, match=r"ids from 0 to 3 for the Embedding.*x\['item'\]"):
        pk.check_inputs(model_of(columns)[0], x)


@pytest.mark.parametrize("own", [None, {"click": 1, "time": 2}])
def test_rows_of_tables_are_copied_by_value(columns, frame, own):
    """After another fit, codes mean other values, and new values have the row of unknown ones."""
    changed = frame.assign(user=frame["user"] + 1, item=[*"0ab0ab"])
    new = Columns(IDS, NUMBERS, LISTS, **MORE).fit(changed, min_rows=2)
    assert columns.known["item"] == ["a", "b"]
    assert new.known["item"] == ["0", "a", "b"]
    (trained, _), (larger, _) = model_of(columns, own), model_of(new, own)
    rng = np.random.default_rng(0)
    for weight in trained.weights:
        if "_table" in weight.path:
            weight.assign(rng.normal(size=weight.shape))
    pk.transfer_weights(trained, larger)
    copy_rows(trained, columns, larger, new)
    row = dict.fromkeys(columns.names) | {"genres": ["old", "new"], "title": "the end"}
    rows = [
        row | {"user": LARGE + 1, "item": "b", "history": ["a", "b"]},
        row | {"user": LARGE + 2, "item": "0", "history": []},
    ]
    expected = trained.predict_on_batch(columns.transform(rows))
    assert_same(larger.predict_on_batch(new.transform(rows)), expected)
