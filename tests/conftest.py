"""Settings of every test: quiet backends, one thread, no program compiled twice, no deadlines."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On arrays of a few numbers threads wait for each other ten times longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# JAX's programs are compiled sooner than they are made fast, and run but a few times here.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # JAX compiles for every model anew
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import hypothesis
import keras
import pytest

hypothesis.settings.register_profile("ple_keras", deadline=None, max_examples=15)
hypothesis.settings.load_profile("ple_keras")


@pytest.fixture(autouse=True, scope="module")
def _fresh_module():
    """What tests of a module share is made from the same seed in every run."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from the same seed and the default dtype policy."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
