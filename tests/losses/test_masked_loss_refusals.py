"""Losses and labels that MaskedLoss refuses."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.models import compiled, heads_alone


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": None}, TypeError, r"Received: loss=None"),
        ({"loss": "nope"}, ValueError, r"Received: loss='nope'"),
        ({"missing_label": "x"}, TypeError, r"missing_label must be a number.*missing_label='x'"),
        ({"missing_label": True}, TypeError, r"Received: missing_label=True"),
        ({"missing_label": [1]}, TypeError, r"Received: missing_label=\[1\]"),
        ({"reduction": "sum"}, ValueError, r"reduction must be None.*Received: reduction='sum'"),
        ({"label_width": 0}, ValueError, r"Received: label_width=0"),
        ({"label_width": 1.5}, TypeError, r"Received: label_width=1.5"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pk.MaskedLoss(**{"loss": "mse", **arguments})


def test_a_missing_label_that_needs_more_than_32_bits_is_refused():
    with pytest.raises(ValueError, match=r"fit into 32 bits.*missing_label=2147483648"):
        pk.MaskedLoss("mse", missing_label=2**31)


@pytest.mark.parametrize("shape", [(5,), (4, 2), (4, 1, 1), ()])
def test_labels_of_a_wrong_shape_are_refused(shape):
    message = (
        r"y_true of 'mse' must have a shape \(4, 1\) or \(4, 3\) or \(4,\).*Received: y_true.shape="
    )
    with pytest.raises(ValueError, match=message):
        pk.MaskedLoss("mse")(np.zeros(shape), np.zeros((4, 3)))


def test_labels_of_another_width_than_the_head_s_are_refused_when_traced():
    heads = pk.TaskHeads([pk.RegressionHead("a", units=3), pk.BinaryHead("b")])
    model = compiled(heads_alone(heads))
    with pytest.raises(ValueError, match=r"y_true of 'a_loss' must have a shape \(.*, 3\) for"):
        model.train_on_batch(features(4, 3), {"a": np.zeros((4, 1)), "b": np.zeros(4)})


def test_labels_that_are_not_numbers_are_refused():
    with pytest.raises(
        TypeError, match=r"y_true of 'mse' must hold numbers\. Received: y_true.dtype=comp"
    ):
        pk.MaskedLoss("mse")(np.zeros((4, 1), "complex64"), np.zeros((4, 1)))


def test_a_loss_without_a_value_for_each_example_is_refused():
    def mean_of_all(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred))

    with pytest.raises(ValueError, match=r"a value for each example.*Received: loss=<function"):
        pk.MaskedLoss(mean_of_all)(np.zeros((4, 1)), np.zeros((4, 1)))


def test_a_loss_that_does_not_reduce_is_refused_by_a_head():
    loss = keras.losses.MeanSquaredError(reduction=None)
    with pytest.raises(ValueError, match=r"must reduce to one number.*reduction=None"):
        pk.RegressionHead("a", loss=loss)


def test_a_head_refuses_a_masked_loss():
    with pytest.raises(TypeError, match=r"the head itself masks it.*Received: loss=<ple_keras"):
        pk.BinaryHead("a", loss=pk.MaskedLoss("binary_crossentropy"))
