"""The examples of serving run as scripts on few rows."""

import re

import keras
import pytest

from tests.helpers import once
from tests.processes import run_example, run_example_here
from tests.recorded_outputs import check_form

BACKEND = keras.backend.backend()


@once
@pytest.mark.skipif(
    keras.__version__.startswith(("3.12.", "3.13.", "3.14.")),
    reason="before 3.15 Keras had no ONNX of dict inputs on PyTorch",
)
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


@pytest.mark.nightly
@once
def test_the_server_predicts_in_batches_and_says_what_is_wrong_with_a_request(tmp_path):
    for package in ("fastapi", "onnxruntime", "prometheus_client", "uvicorn"):
        pytest.importorskip(package)
    small = ("--rows", "1000", "--epochs", "1", "--seconds", "1", "--clients", "2")
    result = run_example("serving.py", "--load-test", *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check_form("serving.py", result.stdout)
    answers = dict(re.findall(r"^  ([\w ]+): 422 (.*)$", result.stdout, re.MULTILINE))
    assert len(answers) == 5
    assert answers["no JSON"] == '{"errors":["body: JSON decode error"]}'
    assert "rows[0].age: Field required" in answers["a missing column"]
    assert "rows[1].age: Input should be a valid number" in answers["a word for a number"]
    assert "rows[0].ages: Extra inputs are not permitted" in answers["NaN and a misspelt column"]
    assert re.search(r'good request: 200 {"income":\[0\.\d+\],"never_married"', result.stdout)
    assert "errors: none" in result.stdout
    rows = float(re.search(r"rows_total (\S+)", result.stdout)[1])
    batches = float(re.search(r"batch_rows_count (\S+)", result.stdout)[1])
    assert rows >= batches >= 1
    assert re.search(r'prediction_sum_total{task="income"} \d', result.stdout)
