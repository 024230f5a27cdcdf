"""The serving example runs as a script on few rows."""

import re

import keras
import pytest

from tests.processes import run_example

BACKEND = keras.backend.backend()


@pytest.mark.skipif(
    BACKEND == "torch" and keras.__version__.startswith(("3.12.", "3.13.", "3.14.")),
    reason="before 3.15 Keras had no ONNX of dict inputs on PyTorch",
)
def test_the_served_model_predicts_the_same_as_keras(tmp_path):
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    small = ("--rows", "1000", "--epochs", "1", "--calls", "2")
    result = run_example("serving.py", *small, cwd=tmp_path)
    if BACKEND == "jax":
        assert result.returncode == 1
        assert "needs KERAS_BACKEND=torch or tensorflow" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    assert float(re.search(r"largest difference: (\S+)", result.stdout)[1]) < 1e-5
    assert re.search(r"\n512 .* / ", result.stdout)
    assert "0 answers differ" in result.stdout
