"""A restored model continues training exactly like the original model.

`tests/_keras/continuation.py` prints a table of all optimizers.
"""

import keras
import pytest

from tests._keras.continuation import MODELS, OPTIMIZERS, WAYS, difference
from tests.helpers import once

BY_PATH = [name for name in OPTIMIZERS if "path" in name or "excluded" in name][-1]


@pytest.mark.parametrize(
    ("kind", "optimizer", "ways"),
    [
        ("two PLEs", BY_PATH, ["loaded", "cloned"]),
        ("hedged branches", "Adam", ["loaded", "pickled"]),
        pytest.param("frozen experts", "Adam", ["loaded"], marks=once),
        ("learned and moved weights", BY_PATH, ["pickled"]),
    ],
)
def test_a_restored_model_trains_like_the_original(kind, optimizer, ways):
    found = difference(MODELS[kind], OPTIMIZERS[optimizer], {way: WAYS[way] for way in ways})
    is_compiled = keras.backend.backend() != "torch"  # compiled programs may round differently
    assert max(found.values()) <= (1e-6 if is_compiled else 0)
