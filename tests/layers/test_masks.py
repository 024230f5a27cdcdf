"""Layers of a block read their inputs with the mask that it receives, and outputs have masks."""

from itertools import cycle

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, plain
from tests.pairs import fewer

TASKS = ["a", "b"]
IDS = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 7]])


@keras.saving.register_keras_serializable(package="tests")
class Attention(keras.layers.Layer):
    """Self-attention of residual blocks. Keras's layer removes the mask of its input."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.supports_masking = units, True
        self.attention = keras.layers.MultiHeadAttention(2, units // 2)

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)

    def call(self, inputs):
        return inputs + self.attention(inputs, inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def functional():
    inputs = keras.Input((None, 4))
    attended = keras.layers.MultiHeadAttention(1, 4)(inputs, inputs)
    return keras.Model(inputs, keras.layers.LSTM(4, return_sequences=True)(attended))


def lstm(units):
    return keras.layers.LSTM(units, return_sequences=True)


LAYERS = {
    "attention": lambda: Attention(4),
    "lstm": lambda: lstm(4),
    "bilstm": lambda: keras.layers.Bidirectional(lstm(2)),
    "functional": functional,
}
BLOCKS = {
    "ple": lambda layer: pk.PLEBlock(2, TASKS, layer),
    "cgc": lambda layer: pk.CGCBlock(TASKS, layer),
    "gate_block": lambda layer: pk.CGCBlock(TASKS, layer, gate_block=layer, stack_experts=False),
    "mmoe": lambda layer: pk.MMoEBlock(TASKS, layer, 2),
    "shared_bottom": lambda layer: pk.SequentialBlock(
        [
            pk.SharedBottomBlock(TASKS, layer),
            pk.TaskHeads([pk.RegressionHead(task, tower=layer) for task in TASKS]),
        ]
    ),
    "stream_features": lambda layer: pk.SequentialBlock(
        [pk.StreamFeatures(TASKS, layer), pk.CGCBlock(TASKS, 3, gate_block=layer)]
    ),
    "hedged": lambda layer: pk.HedgedBlock(TASKS, layer),
    "hedged_features": lambda layer: pk.HedgedBlock(TASKS, layer, features=layer),
}


PAIRS = {
    f"{layer}-{block}": (LAYERS[layer], BLOCKS[block])
    for layers in (LAYERS, ["attention"])
    for layer, block in zip(cycle(layers), BLOCKS)
}


@pytest.mark.parametrize(
    ("layer", "block"), fewer(PAIRS, "attention-ple", "lstm-cgc", "bilstm-hedged")
)
@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")  # of the functional network
def test_valid_positions_do_not_depend_on_padding(layer, block):
    block, embedding = block(layer()), keras.layers.Embedding(8, 4, mask_zero=True)
    ids = np.array([[1, 2], [3, 4]])
    expected = plain(numpy_of(block(embedding(ids))))
    for padding in (1, 3):
        x = embedding(np.pad(ids, ((0, 0), (0, padding))))
        mask = mask_of(x)
        outputs = plain(numpy_of(block(x)))
        assert_same({name: y[:, :2] for name, y in outputs.items()}, expected)
        np.testing.assert_array_equal(mask_of(x), mask)


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
