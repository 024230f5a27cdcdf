"""Functions that several test files use."""

from collections.abc import Mapping

import keras
import numpy as np
import pytest

# `once` is for tests that no backend changes, and for files of such tests, and `every_backend` for
# the others in these files. tests/conftest.py skips the first with other backends than PyTorch.
once, every_backend = pytest.mark.once, pytest.mark.every_backend
# The fastest setting for a few steps of a small model. Without it, JAX compiles every operation of
# a step separately. With XLA, TensorFlow takes long to compile.
QUICK_JIT = keras.backend.backend() == "jax"
# For a few steps whose compilation is not tested: others than JAX trace longer than they train.
QUICK = {"jit_compile": QUICK_JIT, "run_eagerly": not QUICK_JIT}
# All settings of jit_compile to test. Without it, JAX runs steps eagerly.
JIT = {"torch": [False], "jax": [True]}.get(keras.backend.backend(), [False, True])


class Dataset(keras.utils.PyDataset):
    """Batches, with or without an end."""

    def __init__(self, batches, is_endless=False):
        super().__init__()
        self.batches, self.is_endless = batches, is_endless

    @property
    def num_batches(self):
        return None if self.is_endless else len(self.batches)

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]


def numpy_of(outputs):
    """Convert a tensor, or a dict of tensors at any depth, to NumPy arrays."""
    if isinstance(outputs, dict):
        return {key: numpy_of(value) for key, value in outputs.items()}
    return keras.ops.convert_to_numpy(outputs)


def plain(value):
    """Return a dict without dicts in it, with one key if the value is not a dict."""
    if not isinstance(value, Mapping):
        return {"only": value}
    return {
        key if name == "only" else f"{key}/{name}": item
        for key, inside in value.items()
        for name, item in plain(inside).items()
    }


def randomize(layer, seed=0, scale=0.5):
    """Assign random values to every trainable weight, biases too."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(scale=scale, size=weight.shape).astype("float32"))


def built(layer, width=5):
    layer.build((None, width))
    return layer


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def streams(**widths):
    """Return two examples for each stream."""
    return {stream: features(2, width) for stream, width in widths.items()}


def assert_all_close(actual, expected, **tolerances):
    """Assert that two sequences of arrays are equal up to tolerances."""
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, **tolerances)


def assert_same(actual, expected, atol=1e-5):
    """Assert that dicts of arrays have equal keys and, up to rounding, equal values."""
    assert set(actual) == set(expected)
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-5, atol=atol, err_msg=key)
