"""`mask_labels`: labels that are missing outside a sample space."""

import importlib.util

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import numpy_of
from tests.models import compiled, heads_alone

NAN = float("nan")
CLICK = [1, 1, 0, 1, 0]
BUY = [0, 1, 0, 1, 1]


def labels(**kwargs):
    return {"click": np.array(CLICK), "buy": np.array(BUY), **kwargs}


@pytest.mark.parametrize(
    ("buy", "missing_label", "expected"),
    [
        (np.array(BUY), None, np.float32([0, 1, NAN, 1, NAN])),
        (np.array(BUY), -1, np.array([0, 1, -1, 1, -1])),
        (np.array(BUY, "int8"), -1, np.int8([0, 1, -1, 1, -1])),
        (np.array(BUY, bool), None, np.float32([0, 1, NAN, 1, NAN])),
        (np.array(BUY, bool), -1, np.int32([0, 1, -1, 1, -1])),
        (np.array(BUY, "float64"), None, np.float64([0, 1, NAN, 1, NAN])),
        (np.array(BUY, "float32"), -1, np.float32([0, 1, -1, 1, -1])),
        (np.array(BUY)[:, None], -1, np.array([0, 1, -1, 1, -1])[:, None]),
        (BUY, -1, np.array([0, 1, -1, 1, -1])),
    ],
)
def test_a_label_is_missing_where_the_other_is_0(buy, missing_label, expected):
    y = labels(buy=buy)
    masked = pk.mask_labels(y, {"buy": "click"}, missing_label=missing_label)
    np.testing.assert_array_equal(masked["buy"], expected)
    assert masked["buy"].dtype == expected.dtype
    assert masked["click"] is y["click"]
    assert y["buy"] is buy


@pytest.mark.parametrize(
    "click", [np.float32([1, 1, 0, NAN, -1]), np.array([[1], [1], [0], [-1], [-1]])]
)
def test_a_label_is_missing_where_the_other_is_missing(click):
    masked = pk.mask_labels(labels(click=click), {"buy": "click"}, missing_label=-1)
    np.testing.assert_array_equal(masked["buy"], [0, 1, -1, -1, -1])


@pytest.mark.parametrize("order", [("buy", "refund"), ("refund", "buy")])
def test_spaces_are_chained_in_any_order(order):
    chain = {"buy": "click", "refund": "buy"}
    y = labels(refund=np.float32([1, 2, 3, 4, 5]))
    masked = pk.mask_labels(y, {task: chain[task] for task in order})
    np.testing.assert_array_equal(masked["refund"], np.float32([NAN, 2, NAN, 4, NAN]))


def test_labels_of_several_numbers_are_missing_as_a_whole():
    y = labels(place=np.arange(10.0).reshape(5, 2))
    masked = pk.mask_labels(y, {"place": "click"})
    assert np.isnan(masked["place"]).all(axis=1).tolist() == [False, False, True, False, True]
    sequences = {"seen": np.array([[1, 0], [0, 1]]), "liked": np.ones((2, 2, 1))}
    masked = pk.mask_labels(sequences, {"liked": "seen"})
    np.testing.assert_array_equal(np.isnan(masked["liked"][..., 0]), [[False, True], [True, False]])


def test_tensors_stay_tensors():
    y = {task: keras.ops.convert_to_tensor(np.int32(value)) for task, value in labels().items()}
    masked = pk.mask_labels(y, {"buy": "click"})
    assert keras.ops.is_tensor(masked["buy"])
    np.testing.assert_array_equal(numpy_of(masked["buy"]), np.float32([0, 1, NAN, 1, NAN]))


def test_a_data_frame_s_columns_are_labels():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(labels(), index=[3, 1, 4, 1, 5])
    masked = pk.mask_labels(dict(frame.items()), {"buy": "click"})
    np.testing.assert_array_equal(masked["buy"], np.float32([0, 1, NAN, 1, NAN]))


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="needs TensorFlow")
@pytest.mark.parametrize("is_batched", [True, False])
def test_mask_labels_works_in_a_tf_data_pipeline_with_every_backend(is_batched):
    import tensorflow as tf

    y = labels(refund=np.arange(5.0)[:, None])
    dataset = tf.data.Dataset.from_tensor_slices((np.ones((5, 2), "float32"), y))
    dataset = dataset.batch(2) if is_batched else dataset
    spaces = {"refund": "buy", "buy": "click"}
    dataset = dataset.map(lambda x, y: (x, pk.mask_labels(y, spaces)))
    dataset = dataset if is_batched else dataset.batch(2)
    expected = pk.mask_labels(y, spaces)
    for task in y:
        found = np.concatenate([batch[1][task].numpy() for batch in dataset])
        np.testing.assert_array_equal(found, expected[task])


def test_the_loss_of_masked_labels_is_over_the_sample_space():
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy")])
    model = compiled(heads_alone(heads))
    y = pk.mask_labels(labels(), {"buy": "click"})
    heads.check_labels(y)
    x = np.ones((5, 3), "float32")
    p = model.predict(x, verbose=0)["buy"][0, 0]
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["buy_loss"] == pytest.approx(-(2 * np.log(p) + np.log1p(-p)) / 3, rel=1e-5)


REFUSED = {
    "no_dict": ([], {"buy": "click"}, {}, TypeError, r"Received: y=\[\]"),
    "no_spaces": (labels(), "buy", {}, TypeError, r"Received: spaces='buy'"),
    "unknown_task": (labels(), {"x": "click"}, {}, ValueError, r"unknown: \['x'\].*spaces="),
    "unknown_space": (labels(), {"buy": "x"}, {}, ValueError, r"unknown: \['x'\].*spaces="),
    "cycle": (
        labels(),
        {"buy": "click", "click": "buy"},
        {},
        ValueError,
        r"not contain a cycle\. Received: spaces=\{'buy': 'click', 'click': 'buy'\}",
    ),
    "of_itself": (labels(), {"buy": "buy"}, {}, ValueError, r"contain a cycle"),
    "missing_label": (
        labels(),
        {"buy": "click"},
        {"missing_label": "x"},
        TypeError,
        r"missing_label='x'",
    ),
    "missing_label_out_of_range": (
        labels(buy=np.uint8(BUY)),
        {"buy": "click"},
        {"missing_label": -1},
        ValueError,
        r"a value of the dtype of y\['buy'\], uint8\. Received: missing_label=-1",
    ),
    "rows": (
        labels(click=np.ones(4)),
        {"buy": "click"},
        {},
        ValueError,
        r"y\['click'\] must have one label for each.*Received: y\['click'\]\.shape=\(4,\)",
    ),
    "one_row": (labels(click=np.ones(1)), {"buy": "click"}, {}, ValueError, r"shape=\(1,\)"),
    "wide": (labels(click=np.ones((5, 2))), {"buy": "click"}, {}, ValueError, r"shape=\(5, 2\)"),
    "words": (labels(buy=np.array(list("abcde"))), {"buy": "click"}, {}, TypeError, r"numbers"),
}


@pytest.mark.parametrize(
    ("y", "spaces", "kwargs", "error", "message"), list(REFUSED.values()), ids=list(REFUSED)
)
def test_invalid_arguments_are_refused(y, spaces, kwargs, error, message):
    with pytest.raises(error, match=message):
        pk.mask_labels(y, spaces, **kwargs)


def test_pandas_series_are_accepted():
    pandas = pytest.importorskip("pandas")
    y = {"click": pandas.Series([True, False, True]), "buy": np.ones((3, 1))}
    masked = pk.mask_labels(y, {"buy": "click"})["buy"]
    np.testing.assert_array_equal(masked, [[1], [np.nan], [1]])


def test_a_space_of_several_tasks_is_refused():
    with pytest.raises(TypeError, match=r"spaces must be a dict of tasks by task"):
        pk.mask_labels({"a": [1], "b": [1]}, {"b": ["a"]})
