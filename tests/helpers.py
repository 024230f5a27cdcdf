"""What several test files need."""

import keras
import numpy as np

# What runs a few steps of a small model soonest: JAX compiles every operation of an eager step
# by itself, TensorFlow takes long over XLA.
QUICK_JIT = keras.backend.backend() == "jax"
# Each way to run a step.
JIT = [False] if keras.backend.backend() == "torch" else [False, True]


def numpy_of(outputs):
    """A tensor, or a dict of tensors, as NumPy arrays."""
    if isinstance(outputs, dict):
        return {key: keras.ops.convert_to_numpy(value) for key, value in outputs.items()}
    return keras.ops.convert_to_numpy(outputs)


def randomize(layer, seed=0, scale=0.5):
    """Give every trainable weight other values, biases too."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(scale=scale, size=weight.shape).astype("float32"))


def built(layer, width=5):
    layer.build((None, width))
    return layer


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def streams(**widths):
    """Two examples for each stream."""
    return {stream: features(2, width) for stream, width in widths.items()}


def assert_same(actual, expected, atol=1e-5):
    """Dicts of arrays with the same keys and, up to rounding, the same values."""
    assert set(actual) == set(expected)
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-5, atol=atol, err_msg=key)
