"""Contexts of gates that blocks refuse."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.pairs import pairs
from tests.refusals import check_refused, table

TASKS = ["click", "buy"]
X, C = features(4, 3), features(4, 2)


def by_gate(**gates):
    return {gate: features(4, width) for gate, width in gates.items()}


BAD_CONTEXTS = {
    "none": (
        None,
        r"must be a tensor \(\.\.\., C\).*gate_reads='both'\. Received: gate_context=None",
    ),
    "rank": (features(4, 1, 2), r"axes of the inputs.*Received: gate_context\.shape=\(4, 1, 2\)"),
    "one_row": (features(1, 2), r"axes of the inputs.*Received: gate_context\.shape=\(1, 2\), in"),
    "rows": (features(3, 2), r"axes of the inputs.*Received: gate_context\.shape=\(3, 2\), inputs"),
    "rank_1": (features(4), r"\(batch, \.\.\., .*Received: gate_context\.shape=\(4,\)"),
    "scalar": (np.float32(3), r"\(batch, \.\.\., .*Received: gate_context\.shape=\(\)"),
    "no_gates": ({}, r"must have a tensor for each gate\. Received: gate_context=\{\}$"),
    "unknown_gate": (
        by_gate(click=2, buy=2, shared=2, like=2),
        r"gate_context must have exactly.*missing: \[\], unknown: \['like'\]",
    ),
    "missing_gate": (
        by_gate(click=2, shared=2),
        r"gate_context must have exactly.*missing: \['buy'\], unknown: \[\].*Received: gate_con",
    ),
    "missing_shared": (
        by_gate(click=2, buy=2),
        r"gate_context must have exactly.*missing: \['shared'\], unknown: \[\]",
    ),
    "rows_of_one_gate": (
        {**by_gate(click=2, shared=2), "buy": features(2, 2)},
        r"Received: gate_context\['buy'\]\.shape=\(2, 2\), inputs\['buy'\]\.shape=\(4, 3\)",
    ),
}


BLOCKS = {
    "cgc": (pk.CGCBlock, False),
    "ple": (lambda *args, **kw: pk.PLEBlock(2, *args, **kw), False),
    "built_cgc": (pk.CGCBlock, True),
    "built_ple": (lambda *args, **kw: pk.PLEBlock(2, *args, **kw), True),
}


@pytest.mark.parametrize(("context", "message", "make", "is_built"), pairs(BAD_CONTEXTS, BLOCKS))
def test_a_context_that_does_not_match_the_gates_is_refused(make, is_built, context, message):
    block = make(TASKS, [3], gate_reads="both")
    if is_built:
        block(X, gate_context=C)
    check_refused(lambda: block(X, gate_context=context), ValueError, message)


WRONG_TYPES = {
    "list": ([[1.0, 2.0]] * 4, r"gate_context=\[\[1\.0, 2\.0\], .*with <class 'list'>$"),
    "number": (3.0, r"gate_context=3\.0, with"),
    "text": ("us", r"gate_context='us', with"),
    "none_of_a_gate": ({"click": C, "buy": None, "shared": C}, r"'buy': None.*NoneType"),
    "strings": (np.array([["us"]] * 4), r"gate_context=ndarray\(.*\), with <U2$"),
    "objects": (np.array([["us"]] * 4, object), "with object$"),
    "strings_of_a_gate": (
        {"click": C, "buy": np.array([["us"]] * 4), "shared": C},
        r"gate_context=\{.*with <U2$",
    ),
    "symbolic_strings": (keras.Input((2,), dtype="string"), "with string$"),
}


CALLS = {
    "first_call": lambda context: pk.PLEBlock(2, TASKS, [3], gate_reads="context")(
        X, gate_context=context
    ),
    "later_call": lambda context: built_block()(X, gate_context=context),
    "gate_weights": lambda context: built_block().gate_weights(X, gate_context=context),
}


@pytest.mark.parametrize(("context", "message", "call"), pairs(WRONG_TYPES, CALLS))
def test_a_context_of_another_type_is_refused(call, context, message):
    message = r"^gate_context must be a tensor \(\.\.\., C\) of numbers, .* Received: .*" + message
    check_refused(lambda: call(context), TypeError, message)


def built_block():
    block = pk.CGCBlock(TASKS, [3], gate_reads="context")
    block(X, gate_context=C)
    return block


SYMBOLIC_REFUSALS = {
    "none": (lambda block: block(keras.Input((3,))), r"Received: gate_context=None"),
    "width": (
        lambda block: block(keras.Input((3,)), gate_context=keras.Input((3,))),
        r"\(batch, \.\.\., 2\), as when.*Received: gate_context\.shape=\(None, 3\)",
    ),
    "rank": (
        lambda block: block(keras.Input((3,)), gate_context=keras.Input((5, 2))),
        r"axes of the inputs.*Received: gate_context\.shape=\(None, 5, 2\)",
    ),
    "rows": (
        lambda block: block(
            keras.Input(batch_shape=(4, 3)), gate_context=keras.Input(batch_shape=(1, 2))
        ),
        r"axes of the inputs.*Received: gate_context\.shape=\(1, 2\), inputs",
    ),
    "of_a_method": (
        lambda block: block.gate_weights(X, gate_context=keras.Input((2,))),
        r"'gate_context'\] must be arrays or tensors.*return_gate_weights=True.*built=True, ",
    ),
}


@pytest.mark.parametrize(("call", "message"), table(SYMBOLIC_REFUSALS))
def test_a_symbolic_context_that_does_not_match_is_refused(call, message):
    check_refused(lambda: call(built_block()), ValueError, message)


@pytest.mark.parametrize("make", [pk.CGCBlock, lambda *args: pk.PLEBlock(2, *args)])
@pytest.mark.parametrize("is_built", [False, True])
@pytest.mark.parametrize("inputs", [(X, C), (keras.Input((3,)), keras.Input((2,)))])
def test_a_context_that_is_not_read_is_refused(make, is_built, inputs):
    block = make(TASKS, [3])
    if is_built:
        block(X)
    x, context = inputs
    message = r"gate_context must be None, since no.*Received: gate_context\.shape=\(\w+, 2\)"
    check_refused(lambda: block(x, gate_context=context), ValueError, message)


def test_another_value_of_gate_reads_is_refused():
    message = r"gate_reads must be one of \('stream', 'context', 'both'\)\. Received: .*='all'$"
    check_refused(lambda: pk.MMoEBlock(TASKS, [3], 2, gate_reads="all"), ValueError, message)
