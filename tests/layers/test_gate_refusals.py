"""Invalid arguments of gates and of the gates in blocks."""

import pytest

import ple_keras as pk
from tests.helpers import built, once
from tests.layers.blocks import BLOCKS
from tests.pairs import pairs
from tests.refusals import INF, NAN, check_count, check_refused, count_table, table

pytestmark = once

COUNT_ARGUMENTS = {
    "num_experts": (lambda value: pk.Gate(value), 1),
}


@pytest.mark.parametrize(("make", "name", "minimum"), count_table(COUNT_ARGUMENTS))
def test_invalid_counts_are_refused(make, name, minimum):
    check_count(make, name, minimum)


TEMPERATURES = {
    "softmax_temperature": lambda value: pk.Gate(2, softmax_temperature=value),
    **{
        f"gate_softmax_temperature_of_{name}": lambda value, name=name: BLOCKS[name](
            ["a"], gate_softmax_temperature=value
        )
        for name in ("cgc", "ple", "mmoe")
    },
}

BAD_TEMPERATURES = {
    "zero": (0, ValueError, r"must be finite and above 0\. Received: {}=0$"),
    "negative": (-0.5, ValueError, r"must be finite and above 0\. Received: {}=-0\.5$"),
    "nan": (NAN, ValueError, r"must be finite and above 0\. Received: {}=nan$"),
    "inf": (INF, ValueError, r"must be finite and above 0\. Received: {}=inf$"),
    "string": ("1", TypeError, r"must be a number\. Received: {}='1'$"),
    "bool": (True, TypeError, r"must be a number\. Received: {}=True$"),
    "none": (None, TypeError, r"must be a number\. Received: {}=None$"),
}


@pytest.mark.parametrize(
    ("value", "error", "message", "name"),
    pairs(BAD_TEMPERATURES, {name: name for name in TEMPERATURES}),
)
def test_a_temperature_must_be_a_positive_number(name, value, error, message):
    argument = name.split("_of_")[0]
    check_refused(lambda: TEMPERATURES[name](value), error, message.format(argument))


GATES = {
    "gate": lambda **kw: pk.Gate(2, **kw),
    **{
        name: lambda name=name, **kw: BLOCKS[name](["a"], gate_kwargs=kw)
        for name in ("cgc", "ple", "mmoe")
    },
}

BAD_COEFFICIENTS = {
    "dropout_one": ("dropout", 1, ValueError, r"must be finite and below 1"),
    "dropout_nan": ("dropout", NAN, ValueError, "must be finite"),
    "dropout_none": ("dropout", None, TypeError, "must be a number"),
    "balance_negative": ("balance_regularizer", -1, ValueError, "must be at least 0"),
    "balance_name": ("balance_regularizer", "l2", TypeError, "must be a number"),
}


@pytest.mark.parametrize(
    ("argument", "value", "error", "message", "gate"), pairs(BAD_COEFFICIENTS, GATES)
)
def test_invalid_dropout_and_balance_loss_are_refused(gate, argument, value, error, message):
    check_refused(
        lambda: gate(**{argument: value}), error, rf"{argument} {message}\. Received: {argument}="
    )


BAD_GATE_KWARGS = {
    "unknown": ({"top_q": 1}, ValueError, r"unknown: \['top_q'\]\. Received: gate_kwargs="),
    "of_block": ({"gate_block": 3}, ValueError, r"unknown: \['gate_block'\]\. Received: gate_kwar"),
    "temperature": ({"softmax_temperature": 2.0}, ValueError, r"unknown: \['softmax_temperature'"),
    "layer": ({"name": "gate"}, ValueError, r"keys among \['dropout', .*unknown: \['name'\]"),
    "initializer": ({"kernel_initializer": "nope"}, ValueError, "kernel_initializer must be known"),
    "list": (["dropout"], TypeError, r"gate_kwargs must be a dict .*gate_kwargs=\['dropout'\]$"),
}


@pytest.mark.parametrize(
    ("value", "error", "message", "name"),
    pairs(BAD_GATE_KWARGS, {name: name for name in ("cgc", "ple", "mmoe")}),
)
def test_invalid_gate_kwargs_are_refused(name, value, error, message):
    check_refused(lambda: BLOCKS[name](["a"], gate_kwargs=value), error, message)


BAD_ARGUMENTS = {
    **{
        f"gate_{argument}_unknown": (
            lambda argument=argument: pk.Gate(3, **{argument: "nope"}),
            ValueError,
            rf"{argument} must be .*Received: {argument}='nope'$",
        )
        for argument in ("kernel_initializer", "kernel_regularizer")
    },
    "track_weights_number": (
        lambda: pk.Gate(3, track_weights=1),
        TypeError,
        r"track_weights must be True or False\. Received: track_weights=1$",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), table(BAD_ARGUMENTS))
def test_a_bad_argument_is_refused(make, error, message):
    check_refused(make, error, message)


METHODS = {
    "statistics_not_tracked": (
        lambda: built(pk.Gate(3)),
        lambda gate: gate.statistics(),
        r"track_weights=True to return statistics\. Received: track_weights=False, built=True$",
    ),
    "statistics_unbuilt": (
        lambda: pk.Gate(3, track_weights=True),
        lambda gate: gate.statistics(),
        r"must be built.*Received: track_weights=True, built=False$",
    ),
}


@pytest.mark.parametrize(("make", "call", "message"), table(METHODS))
def test_statistics_are_refused_if_untracked_or_unbuilt(make, call, message):
    layer = make()
    check_refused(lambda: call(layer), ValueError, message)
