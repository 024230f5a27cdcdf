"""`gate_reads` and `gate_context`: gates that read a context, or their stream and a context."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once, randomize
from tests.layers import reference
from tests.models import TASKS
from tests.pairs import pairs
from tests.refusals import check_refused


def test_a_level_alone_has_the_gate_weights_of_numpy():
    block, x, context = pk.CGCBlock(TASKS, [3], gate_reads="both"), features(5, 3), features(5, 2)
    block(x, gate_context=context)
    randomize(block)
    found = numpy_of(block.gate_weights(x, gate_context=context))
    assert_same(found, reference.ple([block], x, context)[1][0])


def test_a_block_alone_is_built_from_its_config():
    block = pk.CGCBlock(TASKS, [3], gate_reads="both")
    context = {"click": features(2, 2), "buy": features(2, 4), "shared": features(2, 1)}
    block(features(2, 3), gate_context=context)
    serialized = keras.saving.serialize_keras_object(block)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert [w.shape for w in copy.weights] == [w.shape for w in block.weights]
    assert copy.get_build_config() == block.get_build_config()


def test_levels_that_read_no_context_get_none_in_a_sequential_block():
    levels = [
        pk.CGCBlock(TASKS, [3], gate_reads=reads, name=name)
        for reads, name in (("stream", "first"), ("context", "second"))
    ]
    inner = pk.SequentialBlock([levels[1]], name="inner")
    block = pk.SequentialBlock([levels[0], inner], name="outer")
    x, context = features(4, 3), features(4, 2)
    _, weights = block(x, gate_context=context, return_gate_weights=True)
    _, expected = reference.ple(levels, x, context)
    assert list(weights) == ["inner/0", "outer/0"]  # in alphabetical order
    assert list(pk.gate_weights(keras.Sequential([keras.Input((3,)), levels[0]]), x))
    assert_same(numpy_of(weights["outer/0"]), expected[0])
    assert_same(numpy_of(weights["inner/0"]), expected[1])


def test_a_dict_may_have_the_context_of_a_missing_shared_gate():
    block = pk.MMoEBlock(TASKS, [3], 2, gate_reads="context")
    context = {gate: features(4, 2, seed=i) for i, gate in enumerate([*TASKS, "shared"])}
    x = features(4, 3)
    outputs = numpy_of(block(x, gate_context=context))
    del context["shared"]
    assert_same(numpy_of(block(x, gate_context=context)), outputs)


@pytest.mark.parametrize(
    ("policy", "dtype", "reads"),
    [("float32", "int32", "both"), ("mixed_float16", "bool", "context")],
)
def test_the_context_is_cast_to_the_compute_dtype(policy, dtype, reads):
    x, context = features(4, 3), np.eye(3)[[0, 1, 2, 0]]
    ple = pk.PLEBlock(2, TASKS, [3], gate_reads=reads, dtype=policy)
    expected = ple(x, gate_context=context.astype("float32"), return_gate_weights=True)
    actual = ple(x, gate_context=context.astype(dtype), return_gate_weights=True)
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected)):
        assert keras.backend.standardize_dtype(a.dtype) == policy.removeprefix("mixed_")
        np.testing.assert_allclose(numpy_of(a), numpy_of(b), atol=1e-6)


# Masks.


@pytest.mark.parametrize("reads", ["context", "both"])
def test_positions_have_the_mask_of_the_stream_and_not_of_the_context(reads):
    mask = np.array([[True, True, False], [True, False, False]])
    masking = keras.layers.Masking()
    x = masking(features(2, 3, 4) * mask[..., None])
    context = masking(features(2, 3, 2) * ~mask[..., None])
    block = pk.CGCBlock(TASKS, [3], gate_reads=reads, enable_gate_weights_metrics=True)
    outputs, weights = block(x, gate_context=context, training=False, return_gate_weights=True)
    for tensor in [*outputs.values(), *weights.values()]:
        np.testing.assert_array_equal(numpy_of(tensor._keras_mask), mask)
    np.testing.assert_array_equal(numpy_of(context._keras_mask), ~mask)
    valid = numpy_of(weights["click"])[mask]
    statistics = block.gate_statistics()["click"]
    assert statistics["count"] == mask.sum()
    np.testing.assert_allclose(statistics["mean"], valid.mean(axis=0), atol=1e-6)


# Refusals.

X, C, SYMBOL = features(4, 3), features(4, 2), keras.Input((3,))


def by_gate(**widths):
    return {gate: features(4, width) for gate, width in widths.items()}


AXES = r"axes of the inputs.*Received: gate_context\.shape="
KEYS = "gate_context must have exactly.*"
BAD_CONTEXTS = {
    "none": (None, r"must be a tensor \(\.\.\., C\).*gate_reads='both'\. Received: .*=None"),
    "one_row": (features(1, 2), AXES + r"\(1, 2\), in"),
    "unknown_gate": (
        by_gate(click=2, buy=2, shared=2, c=2),
        KEYS + r"missing: \[\], unknown: \['c'\]",
    ),
    "missing_gate": (by_gate(click=2, shared=2), KEYS + r"missing: \['buy'\].*Received: gate_con"),
    "missing_shared": (by_gate(click=2, buy=2), KEYS + r"missing: \['shared'\], unknown: \[\]"),
    "rows_of_one_gate": (
        {**by_gate(click=2, shared=2), "buy": features(2, 2)},
        r"Received: gate_context\['buy'\]\.shape=\(2, 2\), inputs\['buy'\]\.shape=\(4, 3\)",
    ),
}


LEVELS = {
    "level": lambda **kwargs: pk.CGCBlock(TASKS, [3], **kwargs),
    "levels": lambda **kwargs: pk.PLEBlock(2, TASKS, [3], **kwargs),
}


def read(make, is_built):
    """Return a block whose gates read a context."""
    block = make(gate_reads="both")
    if is_built:
        block(X, gate_context=C)
    return block


READING = {
    f"{name}-{state}": (make, state == "built")
    for state in ("new", "built")
    for name, make in LEVELS.items()
}


@once
@pytest.mark.parametrize(("context", "message", "make", "is_built"), pairs(BAD_CONTEXTS, READING))
def test_a_context_that_does_not_match_the_gates_is_refused(make, is_built, context, message):
    block = read(make, is_built)
    check_refused(lambda: block(X, gate_context=context), ValueError, message)


@once
@pytest.mark.parametrize(
    ("make", "is_built", "x", "context"),
    pairs(READING, {"eager": (X, C), "symbolic": (SYMBOL, keras.Input((2,))), "again": (X, C)}),
)
def test_a_context_that_is_not_read_is_refused(make, is_built, x, context):
    block = make()
    if is_built:
        block(X)
    message = r"gate_context must (be None|not be given).*Received: gate_context.*\(\w+, 2\)"
    check_refused(lambda: block(x, gate_context=context), ValueError, message)


SYMBOLIC = [
    ({}, r"Received: gate_context.shape=None"),
    ({"gate_context": keras.Input((5, 2))}, AXES + r"\(None, 5, 2\)"),
]


@once
@pytest.mark.parametrize(("context", "message"), SYMBOLIC)
def test_a_symbolic_context_that_a_built_block_cannot_read_is_refused(context, message):
    block = read(LEVELS["level"], True)
    check_refused(lambda: block(SYMBOL, **context), ValueError, message)
