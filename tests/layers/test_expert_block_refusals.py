"""Invalid arguments of ExpertBlock."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import once
from tests.refusals import NAN, check_refused, table

pytestmark = once

BAD_ARGUMENTS = {
    "dropout_one": (
        lambda: pk.ExpertBlock(3, dropout=1.0),
        ValueError,
        r"dropout must be finite and below 1\. Received: dropout=1\.0$",
    ),
    "dropout_negative": (
        lambda: pk.ExpertBlock(3, dropout=-0.1),
        ValueError,
        r"dropout must be at least 0\. Received: dropout=-0\.1$",
    ),
    "dropout_nan": (
        lambda: pk.ExpertBlock(3, dropout=NAN),
        ValueError,
        r"dropout must be finite\. Received: dropout=nan$",
    ),
    "dropout_string": (
        lambda: pk.ExpertBlock(3, dropout="0.1"),
        TypeError,
        r"dropout must be a number\. Received: dropout='0\.1'$",
    ),
    "normalization_unknown": (
        lambda: pk.ExpertBlock(3, normalization="instance"),
        ValueError,
        r"one of \(None, 'batch', 'layer'\)\. Received: normalization='instance'$",
    ),
    "normalization_layer": (
        lambda: pk.ExpertBlock(3, normalization=keras.layers.LayerNormalization()),
        ValueError,
        r"one of \(None, 'batch', 'layer'\)\. Received: normalization=<LayerNormalization",
    ),
    "normalization_bool": (
        lambda: pk.ExpertBlock(3, normalization=True),
        ValueError,
        r"Received: normalization=True$",
    ),
    "use_bias_string": (
        lambda: pk.ExpertBlock(3, use_bias="no"),
        TypeError,
        r"use_bias must be True or False\. Received: use_bias='no'$",
    ),
    "activation_unknown": (
        lambda: pk.ExpertBlock(3, activation="rellu"),
        ValueError,
        r"activation must be .*Received: activation='rellu'$",
    ),
    "activation_layer": (
        lambda: pk.ExpertBlock(3, activation=keras.layers.PReLU()),
        TypeError,
        r"activation must be a name or a function.*Received: activation=<PReLU",
    ),
    "activation_halves": (
        lambda: pk.ExpertBlock(4, activation="glu"),
        ValueError,
        r"activation must keep the width.*Received: activation='glu'$",
    ),
    "activation_number": (
        lambda: pk.ExpertBlock(3, activation=3),
        ValueError,
        r"activation must be .*Received: activation=3$",
    ),
    **{
        f"{argument}_unknown": (
            lambda argument=argument: pk.ExpertBlock(3, **{argument: "nope"}),
            ValueError,
            rf"{argument} must be .*Received: {argument}='nope'$",
        )
        for argument in (
            "kernel_initializer",
            "bias_initializer",
            "kernel_regularizer",
            "bias_regularizer",
        )
    },
}


@pytest.mark.parametrize(("make", "error", "message"), table(BAD_ARGUMENTS))
def test_a_bad_argument_is_refused(make, error, message):
    check_refused(make, error, message)
