"""Constants that exporters take for inputs."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from ple_keras._keras.walking import find_layers


@contextmanager
def constant_statistics(model: keras.Model) -> Iterator[None]:
    """Hold the statistics of Normalization layers as arrays.

    Under TensorFlow they are eager tensors, which tf2onnx makes inputs of the file.
    """
    layers = find_layers(model, keras.layers.Normalization)
    kept = [(layer, layer.mean, layer.variance) for layer in layers]
    for layer, mean, variance in kept:
        layer.mean, layer.variance = map(keras.ops.convert_to_numpy, (mean, variance))
    try:
        yield
    finally:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = mean, variance
