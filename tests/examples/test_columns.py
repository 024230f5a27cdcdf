"""The example of columns encodes a request as the rows of its training."""

import importlib.util
import json

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.helpers import once
from tests.processes import EXAMPLES

LARGE = 2**60  # no float holds LARGE + 1


@pytest.fixture(scope="module")
def example():
    for package in ("pydantic", "pyarrow", "sklearn"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location("columns", EXAMPLES / "columns.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(
        {
            "user": pd.array([LARGE, LARGE + 1, None, LARGE, LARGE + 1, LARGE + 2], "Int64"),
            "item": ["a", "b", None, "a", "b", "rare"],
            "category": ["x"] * 6,
            "age": [30.0, np.nan, 50.0, 40.0, 20.0, 10.0],
            "price": pd.array([1, None, 3, 4, 5, 6], "Int64"),
            "genres": [["new", "old"], [], None, ["old"], ["new"], ["new", "other"]],
            "history": [["a"], [], None, ["a", "b", "c"], [*"abcabcabcaba"], ["b", "b"]],
            "title": ["The road", "road", None, "", "a home", "the the"],
        }
    )


@pytest.fixture(scope="module")
def columns(example, frame):
    return new_columns(example).fit([frame], min_rows=2)


def new_columns(example):
    return example.Columns(example.IDS, example.NUMBERS, example.LISTS, example.TEXTS)


def as_request(frame):
    """Return the rows as a service reads them from JSON."""
    return [
        {
            name: value if isinstance(value, list | str) else None if pd.isna(value) else value
            for name, value in row.items()
        }
        for row in frame.astype("object").to_dict("records")
    ]


@once
def test_zero_is_missing_one_is_unknown_and_known_values_follow(columns, frame):
    x = columns.transform(frame)
    assert columns.known["user"].tolist() == [LARGE, LARGE + 1]
    assert x["user"].tolist() == [2, 3, 0, 2, 3, 1]
    assert x["item"].tolist() == [2, 3, 0, 2, 3, 1]
    assert x["genres"].tolist() == [[3, 2, 0], [0] * 3, [0] * 3, [3, 0, 0], [2, 0, 0], [1, 2, 0]]
    np.testing.assert_array_equal(x["price"], np.array([1, np.nan, 3, 4, 5, 6], "float32"))
    assert {values.dtype.name for values in x.values()} == {"int32", "float32"}


@once
def test_a_history_has_its_last_items_and_the_newest_is_first(columns, frame):
    history = columns.transform(frame)["history"]
    assert history.shape == (6, 10)
    assert not history[1:3].any()
    assert history[3].tolist() == [1, 3, 2] + [0] * 7
    assert history[4].tolist() == [2, 3, 2, 1, 3, 2, 1, 3, 2, 1]
    assert history[5].tolist() == [3, 3] + [0] * 8


@once
def test_a_text_has_the_same_code_for_the_same_word(columns, frame):
    title = columns.transform(frame)["title"]
    (road,) = title[1][title[1] > 0]
    assert road >= 2
    assert road in title[0]
    assert (title > 0).sum(axis=1).tolist() == [2, 1, 0, 0, 1, 1]


@once
@pytest.mark.parametrize("rows", [slice(None), slice(2, 3), slice(3, 4)])
def test_a_request_is_encoded_as_a_frame(columns, frame, rows):
    part = frame.iloc[rows]
    of_frame, of_request = columns.transform(part), columns.transform(as_request(part))
    assert of_frame.keys() == of_request.keys()
    for name, values in of_frame.items():
        np.testing.assert_array_equal(values, of_request[name], strict=True)


@once
def test_batches_give_the_encoding_of_all_rows_and_the_same_file(example, columns, frame, tmp_path):
    in_batches = new_columns(example).fit([frame[:2], frame[2:3], frame[3:]], min_rows=2)
    for name, known in columns.known.items():
        assert in_batches.known[name].tolist() == known.tolist()
    for name in example.NUMBERS:
        expected = np.nanmean(frame[name].astype(float)), np.nanvar(frame[name].astype(float))
        np.testing.assert_allclose(in_batches.numbers[name], expected)
        np.testing.assert_allclose(columns.numbers[name], expected)
    columns.save(tmp_path / "columns.json")
    loaded = example.Columns.load(tmp_path / "columns.json")
    for name, values in columns.transform(frame).items():
        np.testing.assert_array_equal(values, loaded.transform(frame)[name], strict=True)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "columns.json").read_bytes()


@once
def test_ids_that_have_become_floats_are_refused(example, frame):
    floats = frame.assign(user=frame["user"].astype("float64"))
    with pytest.raises(TypeError, match="user must hold integers or strings"):
        new_columns(example).fit([floats], min_rows=2)


@pytest.fixture(scope="module")
def folder(example, columns, tmp_path_factory):
    """Return a folder with a model that has not been trained."""
    folder = tmp_path_factory.mktemp("ranker")
    keras.utils.set_random_seed(0)
    model, heads = example.build(columns)
    heads.adapt({"click": np.array([0.0, 1.0]), "watch_time": np.array([30.0, 50.0])})
    example.save(folder, model, columns)
    return folder, model


def test_a_service_predicts_as_the_model_in_training(example, columns, frame, folder):
    folder, model = folder
    assert {path.name for path in folder.iterdir()} == {"columns.json", "model.keras"}
    service = example.Service(folder)
    predictions = model.predict(columns.transform(frame), verbose=0)
    for index, row in enumerate(as_request(frame)):
        status, answer = service.answer(json.dumps({"rows": [row]}))
        assert status == 200
        for task in example.TASKS:
            assert np.isfinite(predictions[task]).all()
            np.testing.assert_allclose(answer[task], predictions[task][index], rtol=1e-6)
    assert service.counts["rows"] == 6
    assert service.counts["user, unknown"] == service.counts["user, missing"] == 1
    assert service.counts["age, missing"] == 1
    assert (service.counts["history, missing"], service.counts["history, unknown"]) == (2, 4)


@once
@pytest.mark.parametrize("price", [1e10, -1e38])
def test_an_outlier_of_a_request_has_a_prediction(example, frame, folder, price):
    row = as_request(frame[:1])[0] | {"price": price}
    status, answer = example.Service(folder[0]).answer(json.dumps({"rows": [row]}))
    assert status == 200
    assert np.isfinite([*answer.values()]).all()


@once
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user": "7"}, r"rows[0].user: Input should be a valid integer. Received: '7'"),
        ({"user": 2**63}, "rows[0].user: Input should be less than or equal to"),
        ({"item": 7}, "rows[0].item: Input should be a valid string. Received: 7"),
        ({"age": "forty"}, "rows[0].age: Input should be a valid number. Received: 'forty'"),
        ({"age": np.nan}, "rows[0].age: Input should be a finite number. Received: nan"),
        ({"age": 1e300}, "rows[0].age: Input should be less than or equal to"),
        ({"genres": "new"}, "rows[0].genres: Input should be a valid array. Received: 'new'"),
        ({"history": ["a", 3]}, "rows[0].history[1]: Input should be a valid string. Received: 3"),
        ({"ages": 40}, "rows[0].ages: Extra inputs are not permitted. Received: 40"),
    ],
)
def test_a_refusal_names_the_column_and_the_value(example, frame, folder, changes, reason):
    service = example.Service(folder[0])
    row = as_request(frame[:1])[0] | changes
    status, answer = service.answer(json.dumps({"rows": [row]}))
    assert (status, len(answer["errors"])) == (422, 1)
    assert answer["errors"][0].startswith(reason)
    assert not service.counts


@once
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("rows", "body: Invalid JSON"),
        ('{"rows": []}', "rows: List should have at least 1 item"),
        ('{"rows": [{}]}', "rows[0].user: Field required"),
    ],
)
def test_a_body_without_rows_is_refused(example, folder, body, reason):
    status, answer = example.Service(folder[0]).answer(body)
    assert status == 422
    assert answer["errors"][0].startswith(reason)


@once
def test_the_codes_of_another_encoding_are_refused_by_the_name_of_their_column(
    example, columns, frame, folder
):
    other = new_columns(example).fit([frame], min_rows=1)
    with pytest.raises(ValueError, match=r"x\['item'\] must be ids from 0 to 3 for the Embedding"):
        pk.check_inputs(
            folder[1], columns.transform(frame) | {"item": other.transform(frame)["item"] + 1}
        )
