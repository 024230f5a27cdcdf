"""Files of `export_onnx` have the model's names and predictions."""

import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, numpy_of, once, plain, randomize
from tests.models import Subclassed, chain
from tests.refusals import check_refused, table

BACKEND = keras.backend.backend()
TASKS = ["time", "buy", "click"]  # not sorted


def columns_model():
    """Return a model of columns, with gate weights next to its predictions."""
    user = keras.Input((), dtype="int32", name="user id")
    numbers = keras.Input((3,), name="numbers")
    scale = keras.layers.Normalization(mean=[0.5, 1.0, 2.0], variance=[1.0, 4.0, 9.0])
    features = keras.layers.Concatenate()([keras.layers.Embedding(7, 4)(user), scale(numbers)])
    time = pk.RegressionHead("time", [3], standardize=True, mean=100.0, deviation=20.0)
    heads = pk.TaskHeads([time, *(pk.BinaryHead(task, tower=[3]) for task in TASKS[1:])])
    ple = pk.PLEBlock(2, heads, [4, 3], gate_reads="both", gate_kwargs={"dropout": 0.2}, name="ple")
    streams, by_level = ple(features, gate_context=numbers, return_gate_weights=True)
    outputs = {**heads(streams), **plain({"gate": by_level})}
    model = keras.Model({"user id": user, "numbers": numbers}, outputs)
    randomize(model)
    return model


def columns(rows):
    rng = np.random.default_rng(rows)
    numbers = rng.normal(size=(rows, 3)).astype("float32")
    return {"user id": rng.integers(0, 7, rows).astype("int32"), "numbers": numbers}


def small(name="x", policy=None, task="a"):
    """Return a model of one task."""
    inputs = keras.Input((3,), name=name)
    return keras.Model(inputs, {task: keras.layers.Dense(1, dtype=policy)(inputs)})


def sizes(values):
    return {value.name: value.shape for value in values}


def test_a_file_has_the_names_order_and_sizes_of_the_model(runtime, tmp_path):
    model, path = columns_model(), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "__array__", DeprecationWarning)  # of Keras, NumPy 2
        pk.export_onnx(model, path)
    session = runtime.InferenceSession(path)
    assert sizes(session.get_inputs()) == {"user id": ["batch"], "numbers": ["batch", 3]}
    assert [value.name for value in session.get_outputs()] == list(model.output)
    outputs = sizes(session.get_outputs())
    assert outputs["time"] == ["batch", 1]
    assert outputs["gate/ple/0/shared"] == ["batch", 4]
    for rows in (0, 1, 7):
        found = dict(zip(outputs, session.run(None, columns(rows))))
        assert_same(found, numpy_of(model(columns(rows))))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_quantiles_are_exported(runtime, tmp_path):
    options = {"standardize": True, "mean": 20.0, "deviation": 3.0}
    heads = pk.TaskHeads([pk.QuantileHead("minutes", [0.1, 0.5, 0.9], [3], **options)])
    model = chain(pk.HedgedBlock(heads, [4]), heads, width=3)
    randomize(model)
    pk.export_onnx(model, tmp_path / "model.onnx")
    session, x = runtime.InferenceSession(tmp_path / "model.onnx"), columns(7)["numbers"]
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    assert_same({"minutes": found}, numpy_of(model(x)))


def test_a_file_has_the_digest_of_the_columns(runtime, tmp_path):
    path = tmp_path / "model.onnx"
    known = pk.Columns(["user"]).fit([[{"user": "a"}]], min_rows=1)
    network = known.network(2)
    model = keras.Model(network.input, {"a": network.output})
    for each, digest in ((model, known.digest), (small(), "")):
        pk.export_onnx(each, path)
        metadata = runtime.InferenceSession(path).get_modelmeta().custom_metadata_map
        assert metadata["columns_digest"] == digest


def test_a_sequential_model_names_its_file_by_its_layers(runtime, tmp_path):
    dense = keras.layers.Dense(2, name="score")
    model = keras.Sequential([keras.Input((3,), name="x"), dense])
    pk.export_onnx(model, str(tmp_path / "m.onnx"))
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    x = np.ones((4, 3), "float32")
    assert sizes(session.get_outputs()) == {"score": ["batch", 2]}
    np.testing.assert_allclose(session.run(None, {"x": x})[0], numpy_of(model(x)), 1e-5)


def test_a_file_whose_predictions_differ_is_refused_and_not_written(runtime, tmp_path, monkeypatch):
    """A swap of two tasks is such a difference."""
    from ple_keras.export import export_onnx as module

    inputs = keras.Input((3,), name="x")
    dense = {task: keras.layers.Dense(1, bias_initializer="ones")(inputs) for task in TASKS}
    model, path = keras.Model(inputs, dense), tmp_path / "m.onnx"
    path.write_text("older")
    real = module._name_values

    def swap(file, inputs, outputs, digest):
        real(file, inputs, {task: outputs[task] for task in ("buy", "time", "click")}, digest)

    monkeypatch.setattr(module, "_name_values", swap)
    with pytest.raises(RuntimeError, match=r"file and the model differ. Output 'time' differs"):
        pk.export_onnx(model, path)
    assert path.read_text() == "older"


def test_lists_infinities_booleans_and_names_of_inner_values_are_exported(runtime, tmp_path):
    inputs = keras.Input((3,), name="x")
    outputs = keras.layers.Dense(1, name="score")(inputs)
    pk.export_onnx(keras.Model([inputs], [outputs]), tmp_path / "m.onnx")
    inner = pytest.importorskip("onnx").load(tmp_path / "m.onnx").graph.initializer[0].name
    some = keras.ops.log(keras.ops.relu(inputs - 0.5))  # for some of the examples
    model = keras.Model(inputs, {inner: outputs, "some": some, "is large": inputs > 0.5})
    pk.export_onnx(model, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(session.run([inner], {"x": x})[0], numpy_of(model(x)[inner]), 1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="other exporters keep such inputs")
def test_an_input_that_no_output_reads_is_refused_if_the_exporter_leaves_it_out(runtime, tmp_path):
    x, other = keras.Input((3,), name="x"), keras.Input((3,), name="other")
    model = keras.Model({"x": x, "other": other}, {"a": keras.layers.Dense(1)(x)})
    with pytest.raises(RuntimeError, match=r"ONNX Runtime failed\. .*[Ii]nput.*other"):
        pk.export_onnx(model, tmp_path / "m.onnx")


def test_gate_statistics_do_not_change(runtime, tmp_path):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    cgc = pk.CGCBlock(heads, [4], add_shared_gate=False, enable_gate_weights_metrics=True)
    model = chain(cgc, heads)
    model.predict(np.ones((5, 3), "float32"), verbose=0)
    expected = cgc.gate_statistics()["a"]
    assert expected["count"] == 5
    pk.export_onnx(model, tmp_path / "model.onnx")
    assert_same(cgc.gate_statistics()["a"], expected)


def test_float16_models_are_exported_with_a_chosen_opset(runtime, tmp_path):
    onnx = pytest.importorskip("onnx")
    pk.export_onnx(small(policy="mixed_float16"), tmp_path / "m.onnx", opset=np.int64(18))
    assert {x.version for x in onnx.load(tmp_path / "m.onnx").opset_import if not x.domain} == {18}


def subclassed():
    return Subclassed([keras.layers.Dense(1)])


def nameless():
    inputs = keras.Input((3,), name="x")
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy")])
    return keras.Model(inputs, list(heads({"click": inputs, "buy": inputs}).values()))


def twice():
    inputs = keras.Input((3,), name="x")
    outputs = keras.layers.Dense(1)(inputs)
    return keras.Model(inputs, {"a": outputs, "b": outputs})


MODELS = {
    "twice": (twice, ValueError, r"model.output must .* different names.*names \['a', 'b'\]"),
    "no_name": (lambda: small(task=""), ValueError, r"different names.* names \[''\]"),
    "no_model": (lambda: 3, TypeError, "model must be a Keras model. Received: model=3"),
    "subclassed": (subclassed, ValueError, "model must be a Functional or .*<Subclassed"),
    "nameless": (nameless, ValueError, r"different names.* names \['task_heads"),
    "one_name": (lambda: small("a"), ValueError, r"model.input=\['a'\], model.output=\['a'\]"),
}


@once
@pytest.mark.parametrize(("make", "error", "message"), table(MODELS))
def test_models_that_cannot_be_exported_are_refused(make, error, message, tmp_path):
    check_refused(lambda: pk.export_onnx(make(), tmp_path / "m.onnx"), error, message)


ARGUMENTS = {
    "folder": ({"path": "missing/m.onnx"}, ValueError, "path must be a file .*='missing/m.onnx'"),
    "no_file": ({"path": "."}, ValueError, r"path must be a file .* Received: path='\.'"),
    "opset": ({"opset": 18.0}, TypeError, r"opset must be an integer\. .*opset=18\.0"),
}


@once
@pytest.mark.parametrize(("arguments", "error", "message"), table(ARGUMENTS))
def test_wrong_arguments_are_refused(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"path": "m.onnx", **arguments}
    check_refused(lambda: pk.export_onnx(small(), **arguments), error, message)


@once
def test_an_error_of_the_exporter_is_one_line(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyError("x" * 1000 + "\nmore")

    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(RuntimeError, match=r"^The exporter .* failed\. KeyError: 'xxx") as caught:
        pk.export_onnx(small(), tmp_path / "m.onnx")
    assert len(str(caught.value)) < 300


@pytest.mark.nightly
def test_onnx_runtime_quantizes_every_product_of_a_file(runtime, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    file = tmp_path / "model.onnx"
    pk.export_onnx(columns_model(), file)
    quant_pre_process(file, file, skip_symbolic_shape=True)
    data = SimpleNamespace(get_next=iter([columns(16), None]).__next__)
    quantization.quantize_static(file, file, data, per_channel=True)
    graph = pytest.importorskip("onnx").load(file).graph
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    in_float = {constant.name for constant in graph.initializer}
    assert len(products) > 15
    assert not in_float.intersection(node.input[1] for node in products)
