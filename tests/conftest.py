"""Settings of every test: quiet backends, few threads, hypothesis without deadlines."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
import pytest

hypothesis.settings.register_profile("ple_keras", deadline=None, max_examples=15)
hypothesis.settings.load_profile("ple_keras")


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from the same seed and the default dtype policy."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
