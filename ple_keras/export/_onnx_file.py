"""The ONNX file of a model: its names, and its comparison with the model."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ple_keras._keras.tensors import restored
from ple_keras._keras.walking import find_layers

BATCH = "batch"
ROWS, UNKNOWN = 3, 4  # sizes of the batch and of other axes without a known size
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}


def name_values(file: Path, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Name the inputs and outputs of a file, and its unknown sizes.

    Args:
        file: An ONNX file, whose inputs have the names of the tensors of `inputs`, in any order,
            and whose outputs have the order of `outputs`.
        inputs: The model's inputs by their new names.
        outputs: The model's outputs by their new names.

    Raises:
        ValueError: If the file lacks an input, since no output reads it.
        RuntimeError: If the file is not valid, or has inputs that the model does not have.
    """
    onnx: Any = import_module("onnx")
    model = onnx.load(file)
    graph = model.graph
    found = {value.name for value in graph.input}
    unused = [name for name, tensor in inputs.items() if tensor.name not in found]
    if unused:
        raise ValueError(
            "Each input of model must be read by an output, since the exporter leaves others out. "
            f"Received: model.input={list(inputs)}, of which {unused} are not read"
        )
    computed = {name for node in graph.node for name in node.output}
    constant = {value.name for value in graph.initializer}
    added = found - {tensor.name for tensor in inputs.values()} - constant
    if added:
        raise RuntimeError(
            "The exporter wrote a file with inputs that the model does not have, such as constants "
            f"of a layer. Received: model.input={list(inputs)}, other inputs of the file={added}"
        )
    new = {tensor.name: name for name, tensor in inputs.items()}
    new |= {value.name: name for value, name in zip(graph.output, outputs)}
    for inner in (computed | constant) & set(new.values()) - set(new):
        new[inner] = f"{inner}/inside"
    _rename(graph, new)
    for values, named in ((graph.input, inputs), (graph.output, outputs)):
        by_name = {value.name: value for value in values}
        ordered = [by_name[name] for name in named]
        for value in ordered:
            _name_sizes(value, named[value.name].shape)
        extra = [value for value in values if value.name not in named]
        del values[:]
        values.extend([*ordered, *extra])
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise RuntimeError(f"The exporter wrote a file that is not valid. {reason}") from error
    onnx.save(model, file)


def _rename(graph: Any, new: Mapping[str, str]) -> None:
    """Rename values of a graph and of the graphs inside its nodes."""
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = _renamed(node.input, new)
        node.output[:] = _renamed(node.output, new)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, new)


def _renamed(names: Iterable[str], new: Mapping[str, str]) -> list[str]:
    return [new.get(name, name) for name in names]


def _name_sizes(value: Any, shape: tuple[int | None, ...]) -> None:
    """Set the known sizes of a value, and name the others."""
    sizes = value.type.tensor_type.shape.dim
    for axis, (size, known) in enumerate(zip(sizes, shape)):
        if known is not None:
            size.dim_value = known
        else:
            size.dim_param = BATCH if axis == 0 else f"{value.name}_{axis}"


def check_predictions(
    model: keras.Model, file: Path, inputs: Mapping[str, Any], outputs: list[str]
) -> None:
    """Check that ONNX Runtime and the model predict the same for random inputs."""
    onnxruntime: Any = import_module("onnxruntime")
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # no warnings of unused constants
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        feed = _random_inputs(model, inputs)
        found = dict(zip(outputs, session.run(outputs, feed)))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise RuntimeError(f"ONNX Runtime can't run the file. {reason}") from error
    is_dict = isinstance(model.input, Mapping)
    given = feed if is_dict else keras.tree.pack_sequence_as(model.input, list(feed.values()))
    with restored(model.non_trainable_variables):  # such as the statistics of gates
        predictions = model.predict_on_batch(given)
    expected = predictions
    if not isinstance(predictions, Mapping):
        expected = dict(zip(outputs, keras.tree.flatten(predictions)))
    halves = any(layer.compute_dtype == "float16" for layer in find_layers(model, keras.Layer))
    tolerance = TOLERANCE["float16" if halves else "float32"]
    for name in outputs:
        values = np.asarray(expected[name])
        if values.size and not np.isfinite(values).any():
            raise RuntimeError(
                f"The file can't be compared with the model, whose output {name!r} is not finite "
                "for random inputs between 0.1 and 1"
            )
        difference = _largest_difference(found[name], values)
        if not difference <= tolerance:
            raise RuntimeError(
                f"The ONNX file predicts other values than the model. Output {name!r} differs by "
                f"{difference:.1e}; {tolerance:g} is allowed, or this part of its largest value"
            )


def _random_inputs(model: keras.Model, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return random values by name. Integers are rows of every embedding table."""
    rng = np.random.default_rng(0)
    rows = [layer.input_dim for layer in find_layers(model, keras.layers.Embedding)]
    end = min([2, *rows])
    return {name: _random_array(tensor, end, rng) for name, tensor in inputs.items()}


def _random_array(tensor: keras.KerasTensor, end: int, rng: np.random.Generator) -> np.ndarray:
    first, *others = tensor.shape
    shape = (first or ROWS, *(size or UNKNOWN for size in others))
    if "int" in tensor.dtype or tensor.dtype == "bool":
        return rng.integers(0, end, shape).astype(tensor.dtype)
    return rng.uniform(0.1, 1.0, shape).astype(tensor.dtype)  # logarithms and roots are finite


def _largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, for each unit relative to its largest value if above 1."""
    if found.shape != expected.shape:
        return float("inf")
    if not found.size:
        return 0.0
    found, expected = found.astype("float64"), expected.astype("float64")
    sizes = np.where(np.isfinite(expected), abs(expected), 0.0)
    largest = sizes.max(axis=tuple(range(sizes.ndim - 1)))
    equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        differences = np.where(equal, 0.0, abs(found - expected)) / np.maximum(1.0, largest)
    return float(np.nan_to_num(differences, nan=np.inf).max())
