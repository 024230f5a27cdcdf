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
    if BACKEND == "jax":
        result = run_example("serving.py", "--out", tmp_path)
        assert result.returncode == 2
        assert "Keras exports no ONNX under JAX" in result.stderr
        return
    pytest.importorskip("onnxruntime")
    pytest.importorskip({"tensorflow": "tf2onnx", "torch": "onnx"}[BACKEND])
    small = ("--rows", "1000", "--epochs", "1", "--calls", "2", "--threads", "2")
    result = run_example("serving.py", *small, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(re.search(r"largest difference: (\S+)", result.stdout)[1]) < 1e-5
    assert re.search(r"\n512 .* / ", result.stdout)
    assert "0 answers differ" in result.stdout
