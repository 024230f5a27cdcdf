"""BinaryHead: outputs, metrics, `pos_weight` and refused arguments."""

import numpy as np
import pytest

import ple_keras as pk
from tests.heads.one_head import loss_of_head, metric_names
from tests.helpers import once
from tests.refusals import check_refused, table


@once
def test_names_of_metrics():
    assert metric_names(pk.BinaryHead("a")) == ["auc", "binary_crossentropy"]
    names = metric_names(pk.BinaryHead("a", pos_weight=2.0))
    assert names == ["auc", "weighted_binary_crossentropy"]


@pytest.mark.parametrize("pos_weight", [0.5, 10.0])
def test_pos_weight_multiplies_the_loss_of_positive_examples(pos_weight):
    head = pk.BinaryHead("a", pos_weight=pos_weight)
    copy = pk.BinaryHead.from_config(head.get_config())
    assert copy.get_config() == head.get_config()
    labels, p = np.float32([1, 0, 1, np.nan]), np.float32([0.2, 0.4, 0.9, 0.5])
    expected = np.nanmean(-(pos_weight * labels * np.log(p) + (1 - labels) * np.log1p(-p)))
    for one in (head, copy):
        assert loss_of_head(one, labels, p[:, None]) == pytest.approx(expected, rel=1e-5)


REFUSED = {
    "activation": ({"activation": "tanh"}, TypeError, r"can't be chosen here.*activation='tanh'$"),
    "units": ({"units": 3}, TypeError, r"can't be chosen here.*Received: units=3$"),
    "pos_weight": (
        {"pos_weight": 0},
        ValueError,
        r"finite and above 0\..*pos_weight=0$",
    ),
}


@once
@pytest.mark.parametrize(("arguments", "error", "message"), table(REFUSED))
def test_arguments_are_refused(arguments, error, message):
    check_refused(lambda: pk.BinaryHead("a", **arguments), error, message)
