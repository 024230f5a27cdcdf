"""Exported models predict the same without Keras and ple_keras.

One process, `serve_exported.py`, runs the files of all formats.
"""

import contextlib
import io
import itertools
import logging
import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, plain, randomize
from tests.integrations import serve_exported
from tests.processes import run_to_end

BACKEND = keras.backend.backend()
ROWS = (1, 7, 64)  # each file is exported once, for any batch size
NEEDS = {
    "tensorflow": {"saved_model": [], "onnx": ["tf2onnx"], "litert": ["ai_edge_litert"]},
    "jax": {"saved_model": ["tensorflow"], "onnx": ["jax2onnx"]},
    "torch": {"torch": [], "onnx": ["onnx"]},
}[BACKEND]
# JAX needs TensorFlow, or jax2onnx, which `.ci/run` installs for nightly tests. LiteRT converts a
# SavedModel, ONNX files of TensorFlow are those of tests/export, and those of PyTorch come from the
# program that torch.export writes.
NIGHTLY = {"tensorflow": ["litert", "onnx"], "jax": ["onnx", "saved_model"], "torch": ["torch"]}[
    BACKEND
]
FORMATS = [
    *([sorted({*NEEDS} - {*NIGHTLY})] if BACKEND != "jax" else []),
    *(pytest.param([form], marks=pytest.mark.nightly) for form in NIGHTLY),
]


def with_branches(tasks, streams):
    """Return predictions of heads, two of which mix branches, and the inputs of the second ones."""
    others = {task: keras.Input((3,), name=f"other_{task}") for task in ("time", "kind")}
    branches = {task: {"net": streams[task], "other": x} for task, x in others.items()}
    return tasks({**streams, **branches}), {x.name: x for x in others.values()}


def heads(*others):
    click, buy = pk.BinaryHead("click", tower=[8]), pk.BinaryHead("buy")
    time = pk.RegressionHead("time", tower=[8], units=2)
    kind = pk.MulticlassHead("kind", tower=[8], num_classes=4)
    return pk.TaskHeads([click, buy, time, kind, *others])


def number_network(width):
    """Return a network of numbers and their embeddings, of which one lacks bins, and one all."""
    numbers = dict(enumerate(features(50, width).T))
    numbers = {
        f"n{i}": np.round(x) if i == 1 else x > 0 if i == 2 else x for i, x in numbers.items()
    }
    columns = pk.Columns(numbers=[*numbers]).fit(pd.DataFrame(numbers))
    return columns.network(number_embedding_dim=2, packed=True)


def with_gate_weights():
    """Return a PLE whose gates read a context, keep statistics, and are outputs."""
    inputs = {"x": keras.Input((16,), name="x"), "device": keras.Input((3,), name="device")}
    tasks = heads()
    options = {"gate_reads": "both", "enable_gate_weights_metrics": True, "name": "ple"}
    block = pk.PLEBlock(2, tasks, [16, 8], 2, 2, gate_kwargs={"dropout": 0.3}, **options)
    streams, by_level = block(
        number_network(16)({"numbers": inputs["x"]}),
        gate_context=inputs["device"],
        return_gate_weights=True,
    )
    outputs, others = with_branches(tasks, streams)
    return keras.Model({**inputs, **others}, {**outputs, **plain({"gate": by_level})})


def by_stream_in_float16():
    """Return an MMoE of float16 that reads the features of each task."""
    keras.config.set_dtype_policy("mixed_float16")
    tasks = heads()
    block = pk.MMoEBlock(tasks, [16, 8], num_experts=4, gate_kwargs={"dropout": 0.3})
    streams = [*tasks.task_names, "shared"]
    inputs = {stream: keras.Input((16,), name=f"{stream}_x") for stream in streams}
    network = number_network(16)
    by_stream = {stream: network({"numbers": x}) for stream, x in inputs.items()}
    outputs, others = with_branches(tasks, block(by_stream))
    model = keras.Model({x.name: x for x in inputs.values()} | others, outputs)
    keras.config.set_dtype_policy("float32")
    return model


def with_product():
    """Return a PLE of two inputs, one of whose outputs is a product."""
    inputs = {"user": keras.Input((10,), name="user"), "item": keras.Input((6,), name="item")}
    product = pk.ProductHead("click_and_buy", of=("click", "buy"))
    tasks = heads(product)
    columns = [number_network(10)({"numbers": inputs["user"]}), inputs["item"]]
    block = pk.PLEBlock(2, tasks, [8])
    outputs, others = with_branches(tasks, block(keras.layers.Concatenate()(columns)))
    return keras.Model(inputs | others, outputs)


MODEL = {"tensorflow": with_gate_weights, "jax": by_stream_in_float16, "torch": with_product}


@contextlib.contextmanager
def suppress_output():
    """Suppress the output of exporters."""
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def export(form, model, folder):
    if form == "onnx":
        pk.export_onnx(model, folder / "model.onnx")
    elif form == "torch":
        import torch

        shapes = {x.name: {0: torch.export.Dim("batch")} for x in model.inputs}
        model.export(folder / "model.pt2", format="torch", verbose=False, dynamic_shapes=shapes)
    elif form == "litert":
        model.export(folder / "model.tflite", format="litert", verbose=False)
    else:
        model.export(folder / "saved_model", format="tf_saved_model", verbose=False)


def need(form):
    for package in [*NEEDS[form], *(["onnxruntime"] if form == "onnx" else [])]:
        pytest.importorskip(package)


@pytest.mark.parametrize("forms", FORMATS, ids=", ".join)
def test_files_predict_the_same_without_keras_for_any_batch_size(forms, tmp_path):
    model = MODEL[BACKEND]()
    randomize(model, scale=0.3)
    x = {each.name: features(64, *each.shape[1:], seed=1) for each in model.inputs}
    for name, values in x.items():
        if name in ("x", "user") or name.endswith("_x"):  # of `number_network`
            values[::5, 0] = np.nan
    folders = [tmp_path / form for form in forms]
    for form, folder in zip(forms, folders):
        need(form)
        folder.mkdir()
        with suppress_output():
            export(form, model, folder)
        for rows in ROWS:
            np.savez(folder / f"inputs_{rows}.npz", **{k: v[:rows] for k, v in x.items()})
    run_to_end("-I", serve_exported.__file__, *folders)
    predictions = model.predict(x, 64, 0)
    for rows, folder in itertools.product(ROWS, folders):
        error = folder / "error.txt"
        assert not error.exists(), (folder.name, error.read_text())
        outputs = dict(np.load(folder / f"outputs_{rows}.npz"))
        assert {array.dtype.name for array in outputs.values()} == {"float32"}
        expected = {name: array[:rows] for name, array in predictions.items()}
        assert_same(outputs, expected, atol=1e-2 if BACKEND == "jax" else 1e-5)


def test_the_serving_process_cannot_import_keras():
    for name in ("keras", "keras.layers", "ple_keras", "ple_keras.layers"):
        assert serve_exported.FinderWithoutKeras.find_spec(name) is None
    assert serve_exported.FinderWithoutKeras.find_spec("numpy")
