"""The example of ONNX Runtime runs as a script on few rows."""

import re

import keras
import pytest

from tests.helpers import once
from tests.processes import run_example_here
from tests.recorded_outputs import check_form

BACKEND = keras.backend.backend()


@pytest.mark.nightly
@once
def test_the_served_model_predicts_the_same_as_keras(tmp_path):
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    small = ("--rows", "1000", "--epochs", "1", "--calls", "2")
    out = run_example_here("onnx_runtime.py", *small, cwd=tmp_path)
    check_form("onnx_runtime.py", out)
    *_, largest, _ = re.search(r"^ONNX Runtime +([\d. ]+)$", out, re.MULTILINE)[1].split()
    assert float(largest) < 1e-5  # from Keras's predictions
    assert re.search(r"\n512 .* / ", out)
    assert "0 answers differ" in out


@pytest.mark.skipif(BACKEND != "jax", reason="the others export")
def test_a_backend_that_cannot_export_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="needs KERAS_BACKEND=torch or tensorflow"):
        run_example_here("onnx_runtime.py", cwd=tmp_path)
