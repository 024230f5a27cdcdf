"""Gate statistics in callbacks that run the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from ple_keras._keras.walking import find_layers
from ple_keras.layers.gate import Gate


@contextmanager
def unchanged_gate_statistics(model: keras.Layer) -> Iterator[None]:
    """Restore the statistics of all gates at the end, so that runs of the model don't count."""
    gates = [gate for gate in find_layers(model, Gate) if gate.track_weights and gate.built]
    sums = [gate._statistics.sums for gate in gates]
    values = [np.array(keras.ops.convert_to_numpy(variable)) for variable in sums]
    try:
        yield
    finally:
        for variable, value in zip(sums, values):
            variable.assign(value)
