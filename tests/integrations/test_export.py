"""Exported models predict the same without Keras and ple_keras.

One run of `export_formats.py` writes all artifacts. One process, `serve_exported.py`, runs them.
"""

import contextlib
import io
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of
from tests.integrations import export_formats, serve_exported

BACKEND = keras.backend.backend()
NEEDS = {
    "tensorflow": {"saved_model": [], "onnx": ["tf2onnx"], "litert": ["ai_edge_litert"]},
    "jax": {"saved_model": ["tensorflow"], "onnx": ["jax2onnx"]},
    "torch": {"torch": [], "onnx": ["onnx"]},
}[BACKEND]
CASE = {  # see `Case`: block, experts, tracked, inputs, policy, option
    "tensorflow": ("PLE", "stacked", True, "context", "float32", "gate weights"),
    "jax": ("MMoE", "stacked", False, "by stream", "mixed_float16", "gate dropout"),
    "torch": ("PLE", "stacked", False, "two", "float32", "product head"),
}[BACKEND]


FORMATS = [  # `.ci/run` installs jax2onnx only for the nightly tests
    pytest.param(form, marks=pytest.mark.nightly if needs == ["jax2onnx"] else [])
    for form, needs in NEEDS.items()
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the folder with all artifacts, and the printed output."""
    folder = tmp_path_factory.mktemp("exported") / "files"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(export_formats, "cases", lambda: [export_formats.Case(*CASE)])
        status = export_formats.main(["--all", "--keep", str(folder)])
    if status:
        pytest.skip(out.getvalue())
    return folder / "00", out.getvalue()


def need(form):
    for package in [*NEEDS[form], *(["onnxruntime"] if form == "onnx" else [])]:
        pytest.importorskip(package)


@pytest.mark.parametrize("form", FORMATS)
def test_an_artifact_predicts_the_same_without_keras_for_any_batch_size(form, exported):
    need(form)
    folder = exported[0]
    error = folder / form / "error.txt"
    assert not error.exists(), error.read_text()
    predictions = np.load(folder / "predictions.npz")
    assert {"click", "buy", "time", "kind"} <= set(predictions)
    gates = {"gate/ple/0/shared", "gate/ple/1/click"}
    assert (gates <= set(predictions)) == (CASE[-1] == "gate weights")
    for rows in (1, 7, 64):
        outputs = np.load(folder / form / f"outputs_{rows}.npz")
        assert set(outputs) == set(predictions)
        for task in predictions:
            assert outputs[task].dtype == "float32"
            atol = 1e-5 if "float32" in CASE else 1e-2
            np.testing.assert_allclose(outputs[task], predictions[task][:rows], 0, atol, task)


def test_a_line_per_model_is_printed(exported):
    header, line = exported[1][exported[1].index(" " * 20) :].splitlines()
    words, *cells = re.split("  +", line)
    assert words.startswith(f"{CASE[0]}, {CASE[1]}, ")
    assert set(header.split()) <= set(NEEDS)
    assert all(float(cell) < 1e-2 for cell in cells)


def test_the_serving_process_cannot_import_keras():
    for name in ("keras", "keras.layers", "ple_keras", "ple_keras.layers"):
        assert serve_exported.FinderWithoutKeras.find_spec(name) is None
    assert serve_exported.FinderWithoutKeras.find_spec("numpy")


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("buy", units=2)])
        self.ple = pk.PLEBlock(2, self.heads, [4, 3])

    def call(self, inputs):
        return self.heads(self.ple(inputs))


def sequential():
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("buy", units=2)])
    return keras.Sequential([pk.PLEBlock(2, heads, [4, 3]), heads])


@pytest.mark.skipif(BACKEND != "torch", reason="other backends sort dicts")
@pytest.mark.parametrize("make", [Subclassed, sequential])
def test_onnx_outputs_have_the_order_of_the_dict_that_a_call_returns(make, tmp_path):
    need("onnx")
    import onnxruntime

    model, x = make(), features(7, 5)
    predictions = model(keras.ops.convert_to_tensor(x))
    with export_formats.suppress_output():
        model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (name,) = [each.name for each in session.get_inputs()]
    outputs = session.run(None, {name: x})
    assert_same(dict(zip(predictions, outputs)), numpy_of(predictions))
