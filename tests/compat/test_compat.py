"""Files of released versions, in tests/compat/. A loaded model equals the saved model."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.compat.load_files import file_names
from tests.processes import ROOT

TIMEOUT = 900.0


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    """Return the differences by file, after one process has loaded all files."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return _read(_load_files())
    result = tmp_path_factory.getbasetemp().parent / "load_files.json"  # shared by all workers
    try:
        result.with_suffix(".lock").touch(exist_ok=False)
    except FileExistsError:  # another worker loads the files
        deadline = time.monotonic() + TIMEOUT
        while not result.exists():
            assert time.monotonic() < deadline, "the worker that loads the files has not finished"
            time.sleep(0.2)
    else:
        result.with_suffix(".part").write_text(_load_files())
        result.with_suffix(".part").rename(result)
    return _read(result.read_text())


def _load_files():
    """Return the exit status and the output of the process as JSON."""
    command = [sys.executable, "-m", "tests.compat.load_files"]
    # JAX would write a thousand programs of one operation each to its cache.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    return json.dumps([run.returncode, run.stdout, run.stderr])


def _read(run):
    status, output, errors = json.loads(run)
    assert status == 0, errors
    return json.loads(output.splitlines()[-1])


def test_files_of_every_backend_are_tested():
    assert {name.split("/")[-2] for name in file_names()} == {"jax", "tensorflow", "torch"}


@pytest.mark.parametrize("name", file_names())
def test_a_loaded_file_gives_the_recorded_results(differences, name):
    if differences[name]["skipped"]:
        pytest.skip(differences[name]["skipped"])
    if differences[name]["results"]:
        pytest.fail("\n".join([name, *differences[name]["results"]]), pytrace=False)


def test_the_weights_of_loaded_models_have_the_recorded_paths(differences):
    moved = [f"{name}: {path}" for name, found in differences.items() for path in found["paths"]]
    if moved:
        pytest.fail("\n".join(moved), pytrace=False)
