"""Every block passes the mask of its inputs to all outputs."""

import warnings

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of

TASKS = ["a", "b"]
IDS = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 7]])

BLOCKS = {
    "ple": lambda: pk.PLEBlock(2, TASKS, pk.ExpertBlock(3, normalization="batch")),
    "bottom": lambda: pk.SharedBottomBlock(TASKS, 3),
    "streams_and_ple": lambda: pk.SequentialBlock(
        [pk.StreamFeatures(TASKS, keras.layers.Dense(4)), pk.PLEBlock(2, TASKS, 3)]
    ),
    "ple_and_heads": lambda: pk.SequentialBlock(
        [pk.PLEBlock(2, TASKS, 3), pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])]
    ),
}


def mask_of(tensor):
    mask = getattr(tensor, "_keras_mask", None)
    return None if mask is None else numpy_of(mask)


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_every_output_has_the_mask_without_warnings(make):
    block, embedded = make(), keras.layers.Embedding(8, 5, mask_zero=True)(IDS)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*mask.*")
        outputs = block(embedded)
    for output in outputs.values():
        np.testing.assert_array_equal(mask_of(output), IDS != 0)
    for output in block(features(3, 4, 5)).values():
        assert mask_of(output) is None


def test_masked_positions_do_not_change_losses():
    """In a Functional model, changing the labels of masked positions does not change a loss."""
    inputs = keras.Input((4,), dtype="int32")
    outputs = BLOCKS["ple"]()(keras.layers.Embedding(8, 5, mask_zero=True)(inputs))
    model = keras.Model(inputs, {task: keras.layers.Dense(1)(outputs[task]) for task in TASKS})
    model.compile(loss=dict.fromkeys(TASKS, "mse"), jit_compile=False)
    labels = features(3, 4, 1)
    first, same, other = (
        model.evaluate(IDS, dict.fromkeys(TASKS, y), verbose=0, return_dict=True)
        for y in (labels, labels + 10 * (IDS == 0)[..., None], labels + 10)
    )
    for task in TASKS:
        assert first[f"{task}_loss"] == pytest.approx(same[f"{task}_loss"], rel=1e-6)
        assert other[f"{task}_loss"] > first[f"{task}_loss"] + 1


def test_an_output_is_valid_where_all_streams_of_its_gate_are_valid():
    block = pk.CGCBlock(TASKS, 3)
    embedding = keras.layers.Embedding(8, 5, mask_zero=True)
    ids = {"a": IDS, "b": IDS[::-1], "shared": np.ones_like(IDS)}
    outputs = block({stream: embedding(value) for stream, value in ids.items()})
    np.testing.assert_array_equal(mask_of(outputs["a"]), IDS != 0)
    np.testing.assert_array_equal(mask_of(outputs["b"]), IDS[::-1] != 0)
    np.testing.assert_array_equal(mask_of(outputs["shared"]), (IDS != 0) & (IDS[::-1] != 0))


def test_batch_normalization_of_stacked_experts_ignores_masked_positions():
    block = pk.CGCBlock(["a"], pk.ExpertBlock(3, normalization="batch"))
    x = features(3, 4, 5)
    masking = keras.layers.Masking()
    masked = np.where((IDS != 0)[..., None], x, 0.0)
    block.build(x.shape)
    outputs = numpy_of(block(masking(masked), training=True))
    weights = {w.path.split("/", 1)[1]: numpy_of(w) for w in block.weights}
    products = x[IDS != 0] @ weights["experts/kernel_0"][0]
    moving_mean = weights["experts/expert-a-0/normalization_0/moving_mean"]
    np.testing.assert_allclose(moving_mean, 0.01 * products.mean(axis=0), atol=1e-6)
    assert np.isfinite(outputs["a"]).all()
