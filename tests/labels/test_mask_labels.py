"""`mask_labels`: labels that are missing outside a sample space."""

import importlib.util

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.helpers import every_backend, numpy_of, once
from tests.refusals import all_refused

pytestmark = once

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
        (np.array(BUY, bool), None, np.float32([0, 1, NAN, 1, NAN])),
        (np.array(BUY, bool), -1, np.int32([0, 1, -1, 1, -1])),
        (np.array(BUY, "float64"), None, np.float64([0, 1, NAN, 1, NAN])),
        (np.array(BUY)[:, None], -1, np.array([0, 1, -1, 1, -1])[:, None]),
        (BUY, -1, np.array([0, 1, -1, 1, -1])),
        (pd.Series(BUY, index=[3, 1, 4, 1, 5]), None, np.float32([0, 1, NAN, 1, NAN])),
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


@every_backend
def test_tensors_stay_tensors():
    y = {task: keras.ops.convert_to_tensor(np.int32(value)) for task, value in labels().items()}
    masked = pk.mask_labels(y, {"buy": "click"})
    assert keras.ops.is_tensor(masked["buy"])
    np.testing.assert_array_equal(numpy_of(masked["buy"]), np.float32([0, 1, NAN, 1, NAN]))


@every_backend
@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="needs TensorFlow")
@pytest.mark.parametrize("is_batched", [True, pytest.param(False, marks=once)])
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


CHAIN = {"buy": "click"}
CYCLE = {"buy": "click", "click": "buy"}
REFUSED = {
    "no_dict": ([], CHAIN, TypeError, r"Received: y=\[\]"),
    "spaces": (labels(), {"buy": ["click"]}, TypeError, "spaces must map tasks to tasks"),
    "cycle": (labels(), CYCLE, r"not contain a cycle\. .*\{'buy': 'click', 'c"),
    "missing_label": (labels(), CHAIN, "x", TypeError, r"missing_label='x'"),
    "missing_label_out_of_range": (labels(buy=np.uint8(BUY)), CHAIN, -1, r"uint8 of y\['buy'\]\. "),
    "rows": (labels(click=np.ones(4)), CHAIN, r"y\['click'\] must have the shape .*=\(4,\)"),
}


test_invalid_arguments_are_refused = all_refused(pk.mask_labels, REFUSED)
