"""BinaryHead: outputs, metrics, `pos_weight` and refused arguments."""

import pytest

import ple_keras as pk
from tests.heads.one_head import metric_names
from tests.helpers import once
from tests.refusals import check_refused, table


@once
def test_names_of_metrics():
    assert metric_names(pk.BinaryHead("a")) == ["auc", "binary_crossentropy"]
    names = metric_names(pk.BinaryHead("a", pos_weight=2.0))
    assert names == ["auc", "weighted_binary_crossentropy"]


REFUSED = {
    "activation": ({"activation": "tanh"}, TypeError, r"can't be set here.*activation='tanh'$"),
    "units": ({"units": 3}, TypeError, r"can't be set here.*Received: units=3$"),
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
