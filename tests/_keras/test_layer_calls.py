"""Shapes, dtypes, batch sizes and masks of every public layer, as for Keras's own layers."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests._keras.layer_cases import CASES, SOME, by_key, every_computation, every_layer
from tests.helpers import assert_same, numpy_of, once, plain, randomize
from tests.pairs import fewer, pairs

CALLED = CASES if keras.backend.backend() == "torch" else {name: CASES[name] for name in SOME}
# The caller passes the inner layers of the other classes, which have their own policies.
WITH_POLICY = {
    name: case
    for name, case in CALLED.items()
    if name not in ("sequential", "cgc_copied", "multiclass_head") and case.cls is not pk.TaskHeads
}
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
if keras.backend.backend() != "jax":  # JAX has no float64 by default
    POLICIES.append("float64")
BY_POLICY = {policy: policy for policy in POLICIES}


def shapes_of(outputs):
    return by_key(lambda x: tuple(x.shape), outputs)


def dtypes_of(outputs):
    return {keras.backend.standardize_dtype(x.dtype) for x in plain(outputs).values()}


RANKS = {"rank_2": ((2,),), "rank_3": ((2, 3),)}


@once
@pytest.mark.parametrize(("case", "leading"), pairs(CASES, {"unknown": ((None,),), "3": ((2, 3),)}))
def test_output_shapes_are_known_after_build(case, leading):
    layer = case.make()
    layer.build(case.shape(*leading))
    assert layer.built
    assert layer.compute_output_shape(case.shape(*leading)) == case.output_shape(*leading)


WAYS = {
    "build": lambda case, layer: layer.build(case.shape(None)),
    "symbolic": lambda case, layer: layer(case.symbols()),
    "eager": lambda case, layer: layer(case.arrays(2)),
}


@once
@pytest.mark.parametrize(("case", "how"), pairs(CASES, WAYS))
def test_every_inner_layer_of_a_built_layer_is_built(case, how):
    layer = case.make()
    how(case, layer)
    assert [x.name for x in layer._flatten_layers() if not x.built] == []
    assert layer.trainable_weights


@pytest.mark.parametrize(
    ("case", "leading", "policy", "is_global"),
    [
        *pairs(CALLED, RANKS, BY_POLICY, {"global": True}),
        *pairs(WITH_POLICY, dict(reversed(RANKS.items())), BY_POLICY, {"own": False}),
    ],
)
def test_eager_and_symbolic_calls_agree_under_every_policy(case, leading, policy, is_global):
    if is_global:
        keras.config.set_dtype_policy(policy)
    layer = case.make() if is_global else case.make(dtype=policy)
    dtype = "float64" if policy == "float64" else "float32"
    symbolic = layer(case.symbols(*leading[1:], dtype=dtype))
    eager = layer(case.arrays(*leading, dtype=dtype))
    assert shapes_of(symbolic) == case.output_shape(None, *leading[1:])
    assert shapes_of(eager) == case.output_shape(*leading)
    expected = dtype if case.is_head else policy.removeprefix("mixed_")
    assert dtypes_of(symbolic) == dtypes_of(eager) == {expected}
    if is_global:
        assert {w.dtype for w in layer.trainable_weights} == {dtype}


@pytest.mark.parametrize("case", fewer(WITH_POLICY))
def test_a_layer_s_own_policy_applies_to_every_inner_layer(case):
    layer = case.make(dtype="mixed_bfloat16")
    layer.build(case.shape(None))
    policies = {
        x.name: x.dtype_policy.name
        for x in layer._flatten_layers()
        if not (case.is_head and x.name.startswith("projection"))
    }
    assert policies == dict.fromkeys(policies, "mixed_bfloat16")


@every_computation
def test_outputs_of_examples_and_positions_are_independent(case):
    layer, flat_layer = case.make(), case.make()
    x = case.arrays(2, 3)
    flat_x = by_key(lambda array: array.reshape(6, -1), x)
    for each, inputs in ((layer, x), (flat_layer, flat_x)):
        each(inputs)
        randomize(each)
    expected = plain(numpy_of(flat_layer(flat_x)))
    expected = {key: value.reshape(2, 3, -1) for key, value in expected.items()}
    assert_same(plain(numpy_of(layer(x))), expected)


@once
@every_layer
def test_every_output_has_the_mask_of_the_input(case):
    mask = np.array([[True, True, False]])
    x = by_key(lambda array: array * mask[..., None], case.arrays(1, 3))
    masked = by_key(lambda array: keras.layers.Masking()(array), x)
    for output in plain(case.make()(masked)).values():
        np.testing.assert_array_equal(numpy_of(output._keras_mask), mask)
