"""Arguments and inputs that heads refuse."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import features, once
from tests.pairs import pairs
from tests.refusals import (
    BAD_INPUTS,
    BAD_NAMES,
    NAN,
    RULE,
    check_count,
    check_refused,
    count_table,
    table,
)

HEADS = {
    "head": pk.Head,
    "binary": pk.BinaryHead,
    "regression": pk.RegressionHead,
    "multiclass": lambda task, **kw: pk.MulticlassHead(task, **{"num_classes": 2, **kw}),
}


@once
@pytest.mark.parametrize(("name", "error", "received", "head"), pairs(BAD_NAMES, HEADS))
def test_a_task_name_outside_the_rule_is_refused_by_every_head(head, name, error, received):
    check_refused(lambda: head(name), error, f"{RULE}. Received: task{received}")


COUNT_ARGUMENTS = {
    "units": (lambda value: pk.Head("a", units=value), 1),
    "units_of_regression": (lambda value: pk.RegressionHead("a", units=value), 1),
    "num_classes": (lambda value: pk.MulticlassHead("a", num_classes=value), 2),
}


@once
@pytest.mark.parametrize(("make", "name", "minimum"), count_table(COUNT_ARGUMENTS))
def test_invalid_counts_are_refused(make, name, minimum):
    check_count(make, name, minimum)


BAD_ARGUMENTS = {
    "head_activation_unknown": (
        lambda: pk.RegressionHead("a", activation="rellu"),
        ValueError,
        r"activation must be .*Received: activation='rellu'$",
    ),
    "head_activation_layer": (
        lambda: pk.Head("a", activation=keras.layers.PReLU()),
        TypeError,
        r"activation must be a name or a function.*Received: activation=<PReLU",
    ),
    "several_losses": (
        lambda: pk.RegressionHead("a", loss=["huber", "mse"]),
        ValueError,
        r"loss must be known to Keras.*: loss=\['huber', 'mse'\]$",
    ),
    "loss_unknown": (
        lambda: pk.BinaryHead("a", loss="nope"),
        ValueError,
        r"loss must be known to Keras.*Received: loss='nope'$",
    ),
    "loss_dict": (
        lambda: pk.BinaryHead("a", loss={"a": "mse"}),
        ValueError,
        r"loss must be .*Received: loss=\{'a': 'mse'\}$",
    ),
    "metric_unknown": (
        lambda: pk.BinaryHead("a", metrics=["accuracy", "nope"]),
        ValueError,
        r"metrics must be known to Keras.* Received: metrics='nope'$",
    ),
    "metrics_one_string": (
        lambda: pk.BinaryHead("a", metrics="auc"),
        TypeError,
        r"metrics must be a sequence of metrics.* Received: metrics='auc'$",
    ),
    "metrics_dict": (
        lambda: pk.BinaryHead("a", metrics={"a": ["accuracy"]}),
        TypeError,
        r"metrics must be a sequence of metrics.* Received: metrics=\{'a'",
    ),
    "extra_metrics_number": (
        lambda: pk.BinaryHead("a", extra_metrics=[3]),
        ValueError,
        r"extra_metrics must be known to Keras.*Received: extra_metrics=3$",
    ),
    "loss_without_a_reduction": (
        lambda: pk.RegressionHead("a", loss=keras.losses.MeanSquaredError(reduction=None)),
        ValueError,
        r"loss must have the default reduction.*Received: loss=<.* with reduction=None",
    ),
    "loss_weight_negative": (
        lambda: pk.BinaryHead("a", loss_weight=-1),
        ValueError,
        r"loss_weight must be at least 0\. Received: loss_weight=-1$",
    ),
    "loss_weight_nan": (
        lambda: pk.RegressionHead("a", loss_weight=NAN),
        ValueError,
        r"loss_weight must be finite\. Received: loss_weight=nan$",
    ),
    "loss_weight_string": (
        lambda: pk.Head("a", loss_weight="1"),
        TypeError,
        r"loss_weight must be a number\. Received: loss_weight='1'$",
    ),
}


@once
@pytest.mark.parametrize(("make", "error", "message"), table(BAD_ARGUMENTS))
def test_a_bad_argument_is_refused(make, error, message):
    check_refused(make, error, message)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: pk.BinaryHead("a", activation="tanh"), "activation='tanh'"),
        (lambda: pk.BinaryHead("a", units=3), "units=3"),
        (lambda: pk.MulticlassHead("a", num_classes=3, units=3), "units=3"),
    ],
)
def test_an_argument_that_is_fixed_is_refused(make, argument):
    check_refused(make, TypeError, rf"can't be chosen here.*Received: {argument}$")


LAYERS_OF_ONE_TENSOR = {
    "head": lambda: pk.BinaryHead("a"),
    "head_with_tower": lambda: pk.BinaryHead("a", tower=4),
}

every_layer = pytest.mark.parametrize(
    "make", list(LAYERS_OF_ONE_TENSOR.values()), ids=list(LAYERS_OF_ONE_TENSOR)
)


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_INPUTS))
@every_layer
def test_invalid_inputs_are_refused_at_the_first_call(make, make_inputs, message):
    layer, inputs = make(), make_inputs()
    check_refused(lambda: layer(inputs), ValueError, message)


@pytest.mark.parametrize(
    "make", [pytest.param(LAYERS_OF_ONE_TENSOR["head_with_tower"], id="head_with_tower")]
)
def test_a_built_head_refuses_inputs_of_another_width(make):
    layer = make()
    layer(features(2, 5))
    with pytest.raises(
        ValueError, match=r"to have value 5, but received input with shape \(2, 6\)"
    ):
        layer(features(2, 6))


@pytest.mark.parametrize("layer", [pk.BinaryHead("a")], ids=lambda layer: type(layer).__name__)
def test_the_message_for_another_width_has_the_name_of_the_layer(layer):
    layer(features(2, 5))
    with pytest.raises(ValueError, match=rf"layer .{layer.name}..*value 5.*received.*\(2, 4\)"):
        layer(features(2, 4))
    with pytest.raises(ValueError, match="value 5"):
        layer(keras.Input((4,)))


@every_layer
def test_a_refused_call_leaves_the_layer_usable(make):
    layer = make()
    with pytest.raises(ValueError, match="Received: inputs"):
        layer(features(5))
    layer(features(2, 5))
    assert layer.built
