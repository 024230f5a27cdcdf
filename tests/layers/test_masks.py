"""Every block passes the mask of its inputs to all outputs."""

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import features, numpy_of

TASKS = ["a", "b"]
IDS = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 7]])


def mask_of(tensor):
    mask = getattr(tensor, "_keras_mask", None)
    return None if mask is None else numpy_of(mask)


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
