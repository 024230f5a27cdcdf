"""Values in error messages: short, and arrays without their numbers."""

from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd

import ple_keras as pk
from ple_keras._checks import short_repr
from tests.helpers import every_backend, once

pytestmark = once

LONG = np.zeros((500, 3), "float32")


@every_backend
def test_values_are_shown_briefly():
    assert short_repr(LONG) == "ndarray(shape=(500, 3), dtype=float32)"
    assert short_repr({"x": [LONG], "n": 1}) == f"{{'n': 1, 'x': [{short_repr(LONG)}]}}"
    assert short_repr(pd.DataFrame(LONG)) == "DataFrame(shape=(500, 3))"
    assert short_repr(list(range(500))) == "[0, 1, 2, 3, 4, 5, ...]"
    assert "shape=(500, 3)" in short_repr(keras.ops.convert_to_tensor(LONG))
    assert short_repr(SimpleNamespace(shape=5)) == "namespace(shape=5)"
    for value in (None, "word", 0.5, np.float32(0.5), [1, 2], pk.Gate):
        assert short_repr(value) == repr(value)
