"""Settings of all tests: quiet backends, one thread, a compilation cache, no deadlines."""

import atexit
import functools
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version

import pytest

BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # the default of Keras
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On small arrays, threads wait for each other ten times longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Optimizing JAX's programs takes longer than running them unoptimized a few times.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if BACKEND == "jax" and version("jaxlib").startswith("0.10."):
    # It saves a fifth of the time. XLA stops at an unknown flag.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # JAX compiles every model again
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# With the default of 700, garbage collection takes a tenth of the time.
gc.set_threshold(50_000)


def pytest_configure(config):
    """Set up Hypothesis and JAX where tests run: a process that starts others needs neither."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import hypothesis

    # On other backends than PyTorch, each example is compiled.
    examples = 5 if BACKEND == "torch" else 3
    hypothesis.settings.register_profile("ple_keras", deadline=None, max_examples=examples)
    hypothesis.settings.load_profile("ple_keras")
    if BACKEND == "jax" and version("jaxlib").startswith("0.10."):
        from jax._src.interpreters import mlir

        # A new context takes a fifth of the time of compiling a small program.
        mlir.make_ir_context = functools.cache(mlir.make_ir_context)


def pytest_collection_modifyitems(items):
    """Skip tests that run once. A mark of a test, or of its parameters, overrides its file's."""
    if BACKEND == "torch":
        return
    skip = pytest.mark.skip(reason="no backend changes it: it runs once, on PyTorch")
    for item in items:
        own = {mark.name for mark in item.own_markers}
        if "once" in own or (item.get_closest_marker("once") and "every_backend" not in own):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="module")
def _fresh_module():
    """Set the seed before the fixtures of a module are created."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _fresh_state():
    """Start every test with the same seed, the default dtype policy and no open figure."""
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(autouse=True)
def _eager_steps(request, monkeypatch):
    """Trace no steps on PyTorch where they are not tested: a trace takes longer than most tests."""
    is_traced = {"training", "callbacks", "hedging"} & {*request.path.parts}
    is_traced = is_traced or "README" in request.node.name
    is_nightly = request.node.get_closest_marker("nightly")
    if BACKEND == "torch" and not (is_traced or is_nightly):
        monkeypatch.setattr("ple_keras.steps.traced_step.MAX_GRAPHS", 0)


@pytest.fixture
def small_tables_by_rows(monkeypatch):
    """Let JAX update small tables by rows, which it otherwise updates as a whole for speed."""
    monkeypatch.setattr("ple_keras.optimizers.sparse_adagrad.ROWS_PER_ID", 0)


ONNX_EXPORTER = {"tensorflow": "tf2onnx", "torch": "onnx", "jax": "jax2onnx"}.get(BACKEND)


# `.ci/run` installs jax2onnx only for the nightly tests.
@pytest.fixture(
    params=[
        pytest.param(
            ONNX_EXPORTER, marks=pytest.mark.nightly if ONNX_EXPORTER == "jax2onnx" else []
        )
    ]
)
def runtime(request):
    """Return ONNX Runtime, for tests of files, which need an exporter too."""
    pytest.importorskip(request.param)
    return pytest.importorskip("onnxruntime")
