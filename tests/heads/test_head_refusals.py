"""Arguments and inputs that every head refuses, and arguments of BinaryHead."""

import functools

import keras
import pytest

import ple_keras as pk
from tests.helpers import features, once
from tests.pairs import pairs
from tests.refusals import BAD_INPUTS, BAD_NAMES, RULE, all_refused, check_refused, table

pytestmark = once


@pytest.mark.parametrize(("name", "error", "received"), table(BAD_NAMES))
def test_a_task_name_outside_the_rule_is_refused(name, error, received):
    check_refused(lambda: pk.Head(name), error, f"{RULE}. Received: task{received}")


WITHOUT_REDUCTION = keras.losses.MeanSquaredError(reduction=None)
BAD_ARGUMENTS = {
    "activation": ({"activation": "rellu"}, r"activation must be .*='rellu'$"),
    "activation_layer": ({"activation": keras.layers.PReLU()}, TypeError, "a function.*=<PReLU"),
    "loss": ({"loss": "nope"}, r"loss must be known to Keras.*: loss='nope'$"),
    "loss_of_logits": (
        {"loss": keras.losses.BinaryCrossentropy(from_logits=True), "activation": "sigmoid"},
        r"loss must have from_logits=False\. Received: loss=<.*, activation='sigmoid'$",
    ),
    "loss_without_a_reduction": ({"loss": WITHOUT_REDUCTION}, "loss=<.* with reduction=None"),
    "metric": ({"metrics": ["mae", "nope"]}, r"known to Keras.* metrics='nope'$"),
    "metrics_string": ({"metrics": "auc"}, TypeError, r"a list of metrics.* metrics='auc'$"),
    "extra_metrics": ({"extra_metrics": [3]}, r"known to Keras.*extra_metrics=3$"),
    "loss_weight": ({"loss_weight": -1}, r"at least 0\. Received: loss_weight=-1$"),
    "loss_weight_text": ({"loss_weight": "1"}, TypeError, r"a number\. .*: loss_weight='1'$"),
}


test_a_bad_argument_is_refused = all_refused(
    lambda arguments: pk.Head("a", **arguments), BAD_ARGUMENTS
)


def test_losses_of_logits_are_allowed_only_for_logits():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for make in (
        lambda: pk.BinaryHead("a", loss=loss),
        lambda: pk.ProductHead("a", of=("b", "c"), loss=loss),
        lambda: pk.MulticlassHead("a", num_classes=3, loss=sparse),
    ):
        check_refused(make, ValueError, "loss must have from_logits=False")
    pk.Head("a", loss=loss)
    pk.Head("a", loss=loss, activation="tanh")


def test_a_pos_weight_of_0_is_refused():
    call = functools.partial(pk.BinaryHead, "a", pos_weight=0)
    check_refused(call, ValueError, r"finite and above 0\..*pos_weight=0$")


@pytest.mark.parametrize(
    ("make_inputs", "message", "tower"), pairs(BAD_INPUTS, {"alone": None, "tower": 4})
)
def test_invalid_inputs_are_refused_and_leave_the_head_usable(make_inputs, message, tower):
    head, inputs = pk.BinaryHead("a", tower=tower), make_inputs()
    check_refused(lambda: head(inputs), ValueError, message)
    head(features(2, 5))
    for another_width in (features(2, 4), keras.Input((4,))):
        with pytest.raises(ValueError, match=rf"layer .{head.name}..*value 5.*\(\w+, 4\)"):
            head(another_width)
