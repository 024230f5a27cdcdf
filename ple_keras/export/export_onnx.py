"""Export of a model to an ONNX file, with the names of its inputs and outputs."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import SupportsIndex, TypeAlias

import keras
import numpy as np

from ple_keras._checks import check_int, short_repr
from ple_keras._keras.internals import functional_outputs
from ple_keras._keras.layers import find_layers
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Nested
from ple_keras.columns.column_layers import columns_digest

Tensors: TypeAlias = dict[str, keras.KerasTensor]  # keyed by name
INSIDE = "inside/"  # the prefix of other values
UNKNOWN_SIZE = 3  # rows, and other unknown axes, in the comparison


def export_onnx(model: keras.Model, path: str | Path, opset: SupportsIndex | None = None) -> None:
    """Write a model to an ONNX file, which runs without Keras.

    The inputs and outputs of the file have the names and the order of the model's inputs and
    outputs: the keys of a dict, else the names of the inputs and of the output layers. The batch
    can have any size. On PyTorch and JAX, `model.export` changes the order, and omits the names of
    outputs.

    If `onnxruntime` is installed, the file is run on random inputs and compared with the model. An
    existing file is replaced only if the new one passes.

    The metadata of the file contain "columns_digest": the digest of the `Columns` whose network the
    model contains, or an empty text.

    Args:
        model: A Functional model, or a built Sequential model, that computes in float32 or float16.
            Its weights and its state do not change.
        path: The file to write, in an existing folder.
        opset: The version of the ONNX operators; None for the exporter's default.

    Raises:
        TypeError: If `model` is not a Keras model, `path` is not a path, or `opset` is not an
            integer.
        ValueError: If the model is of any other kind, its inputs or outputs are nested or do not
            have different names, an input is text, an output has the name of an input, or no output
            reads an input. If the folder of `path` does not exist, or `opset` is below 1.
        RuntimeError: If the exporter fails, or the predictions of the file and the model differ.

    Example:

    >>> inputs = {"price": keras.Input((1,), name="price"), "x": keras.Input((3,), name="x")}
    >>> features = keras.layers.Concatenate()(list(inputs.values()))
    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> model = keras.Model(inputs, heads(PLEBlock(1, heads, [4])(features)))
    >>> export_onnx(model, "model.onnx")  # doctest: +SKIP

    In ONNX Runtime, inputs and outputs have names:

    >>> session = onnxruntime.InferenceSession("model.onnx")  # doctest: +SKIP
    >>> click, buy = session.run(["click", "buy"], {"price": price, "x": x})  # doctest: +SKIP
    """
    inputs, outputs = _named_tensors(_to_functional(model))
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"path must be a file in an existing folder. Received: path={str(path)!r}")
    version = None if opset is None else check_int(opset, "opset", minimum=1)
    # Every exporter preserves the order of lists, and refuses a model that was never called.
    listed = keras.Model(list(inputs.values()), list(outputs.values()))
    rng = np.random.default_rng(0)
    feed = {name: _random_array(tensor, rng) for name, tensor in inputs.items()}
    values = keras.tree.flatten(listed(list(feed.values())))
    expected = dict(zip(outputs, map(to_numpy, values)))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / "model.onnx"
        try:
            with warnings.catch_warnings(action="ignore"), _constant_statistics(listed):
                listed.export(file, format="onnx", verbose=False, opset_version=version)
            _name_values(file, inputs, outputs, columns_digest(listed))
            predictions = {}
            if find_spec("onnxruntime"):
                onnxruntime = import_module("onnxruntime")
                session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
                predictions = dict(zip(outputs, session.run(list(outputs), feed)))
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[0][:200]}"
            raise RuntimeError(f"The exporter or ONNX Runtime failed. {reason}") from error
        _check_predictions(predictions, expected, model)
        file.replace(path)


def _to_functional(model: keras.Model) -> keras.Model:
    """Return a Functional model unchanged, and a Sequential model as a Functional one."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model. Received: model={short_repr(model)}")
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs[0], model.outputs[0])
    if functional_outputs(model) is None:
        raise ValueError(
            "model must be a Functional or a built Sequential model. Wrap any other model: "
            f"keras.Model(inputs, model(inputs)). Received: model={short_repr(model)}"
        )
    return model


def _named_tensors(model: keras.Model) -> tuple[Tensors, Tensors]:
    """Return the symbolic inputs and outputs of a Functional model by name."""
    inputs = _by_name(model.input, [tensor.name for tensor in model.inputs], "input")
    outputs = _by_name(model.output, model.output_names, "output")
    both = [name for name in outputs if name in inputs]
    if both:
        raise ValueError(
            "The outputs of model must not have names of inputs, since names must be unique in "
            f"ONNX. Rename the keras.Input. Received: model.input={both}, model.output={both}"
        )
    return inputs, outputs


def _by_name(struct: Nested, names: list[str], argument: str) -> Tensors:
    """Return tensors by name: the keys of a dict, or `names`."""
    tensors = struct if isinstance(struct, (list, tuple)) else [struct]
    if isinstance(struct, Mapping):
        names, tensors = list(struct), list(struct.values())
    are_named = all(isinstance(name, str) and name for name in names)
    are_numbers = all(isinstance(x, keras.KerasTensor) and x.dtype != "string" for x in tensors)
    count = min(len(set(names)), len(set(map(id, tensors))))
    if not (are_named and are_numbers and count == len(tensors)):
        raise ValueError(
            f"model.{argument} must be a tensor of numbers, or a list or dict of such tensors with "
            f"different names. Received: model.{argument}={struct}, with the names {names}"
        )
    return dict(zip(names, tensors))


def _random_array(tensor: keras.KerasTensor, rng: np.random.Generator) -> np.ndarray:
    """Return a small batch: integers that are rows of any table, or floats with a logarithm."""
    shape = [size or UNKNOWN_SIZE for size in tensor.shape]
    if "float" in tensor.dtype:
        return rng.uniform(0.1, 1.0, shape).astype(tensor.dtype)
    return rng.integers(0, 2, shape).astype(tensor.dtype)


@contextmanager
def _constant_statistics(model: keras.Model) -> Iterator[None]:
    """Hold the statistics of Normalization layers as arrays.

    On TensorFlow, they are eager tensors, which tf2onnx 1.17 turns into inputs of the file.
    """
    layers = find_layers(model, keras.layers.Normalization)
    kept = [(layer, layer.mean, layer.variance) for layer in layers]
    for layer, mean, variance in kept:
        layer.mean, layer.variance = map(to_numpy, (mean, variance))
    try:
        yield
    finally:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = mean, variance


def _name_values(file: Path, inputs: Tensors, outputs: Tensors, digest: str) -> None:
    """Name the inputs and outputs of a file, and their unknown axes, and add the digest of columns.

    A new value is copied to each input, and from each output. All other values get a prefix, so
    that names are unique.

    Args:
        file: A file whose inputs have the names of the tensors of `inputs`, and whose outputs have
            the order of `outputs`.
        inputs: The model's inputs, keyed by their new names.
        outputs: The model's outputs, keyed by their new names.
        digest: The digest of the model's `Columns`; empty without a network of them.
    """
    onnx = import_module("onnx")
    model = onnx.compose.add_prefix(onnx.load(file), INSIDE)
    graph, tensors = model.graph, {**inputs, **outputs}
    names = {INSIDE + tensor.name: name for name, tensor in inputs.items()}
    names |= {value.name: name for value, name in zip(graph.output, outputs)}
    for value in graph.input:
        graph.node.insert(0, onnx.helper.make_node("Identity", [names[value.name]], [value.name]))
    for value in graph.output:
        graph.node.append(onnx.helper.make_node("Identity", [value.name], [names[value.name]]))
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        sizes = value.type.tensor_type.shape.dim
        for axis, (size, known) in enumerate(zip(sizes, tensors[value.name].shape)):
            if known is None:
                size.dim_param = f"{value.name}_{axis}" if axis else "batch"
            else:
                size.dim_value = known
    model.metadata_props.add(key="columns_digest", value=digest)
    onnx.save(model, file)


def _check_predictions(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], model: keras.Model
) -> None:
    """Check the predictions of a file, relative to the largest prediction above 1."""
    halves = any(layer.compute_dtype == "float16" for layer in find_layers(model, keras.Layer))
    tolerance = 2e-2 if halves else 1e-4
    for name, values in found.items():
        right = expected[name].astype("float64")
        atol = tolerance * abs(right[np.isfinite(right)]).max(initial=1.0)
        if values.shape != right.shape or not np.allclose(values, right, 0, atol, equal_nan=True):
            raise RuntimeError(
                f"The predictions of the ONNX file and the model differ. Output {name!r} differs "
                f"by more than {tolerance:g} times the larger of 1 and its largest value"
            )
