"""Names of the inputs and outputs of an ONNX file."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

BATCH = "batch"


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
    added = found - {tensor.name for tensor in inputs.values()}
    added -= {constant.name for constant in graph.initializer}
    if added:
        raise RuntimeError(
            "The exporter wrote a file with inputs that the model does not have, such as constants "
            f"of a layer. Received: model.input={list(inputs)}, file inputs beside them={added}"
        )
    new = {tensor.name: name for name, tensor in inputs.items()}
    new |= {value.name: name for value, name in zip(graph.output, outputs)}
    for inner in _names_inside(graph) & set(new.values()) - set(new):
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


def _names_inside(graph: Any) -> set[str]:
    """Return the names of values that are computed or constant."""
    computed = {name for node in graph.node for name in node.output}
    return computed | {constant.name for constant in graph.initializer}


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
