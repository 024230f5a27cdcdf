"""Variables and folders that must be set before other modules are imported."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# No TensorFlow banners, no spinning threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # JAX compiles equal networks again otherwise
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share
