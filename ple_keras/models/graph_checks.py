"""Checks of the heads and the graph of a model that is trained by its heads."""

from collections.abc import Mapping

import keras

from ple_keras._checks import short_repr
from ple_keras._keras.internals import functional_outputs, tensor_source
from ple_keras._keras.layers import find_layers
from ple_keras._typing import Nested, Tensor
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.layers.sequential_block import SequentialBlock


def only_task_heads(model: keras.Layer) -> TaskHeads:
    """Return the only TaskHeads of a model."""
    found = find_layers(model, TaskHeads)
    if len(found) == 1:
        return found[0]
    names = [heads.name for heads in found]
    raise ValueError(
        "model must have exactly one TaskHeads, with the heads of all tasks, which a subclassed "
        f"model creates in __init__. Received: model={model.name!r} with TaskHeads {names}"
    )


def check_graph(model: keras.Model, heads: TaskHeads, outputs: Tensor) -> None:
    """Check that the outputs are the predictions of the heads."""
    is_by_task = isinstance(outputs, Mapping) and set(outputs) == set(heads)
    if not is_by_task or not all(_is_prediction(heads, *pair) for pair in outputs.items()):
        raise outputs_error(model, heads, outputs)


def _is_prediction(heads: TaskHeads, task: str, tensor: keras.KerasTensor) -> bool:
    """Return whether a symbolic tensor is a TaskHeads' prediction of a task."""
    layer, index = tensor_source(tensor)
    while isinstance(layer, SequentialBlock | keras.Sequential):
        layer = layer.layers[-1]
    if isinstance(layer, keras.Model) and functional_outputs(layer) is not None:
        return _is_prediction(heads, task, layer.outputs[index])
    if layer is not heads:  # the layer can call the heads itself
        return isinstance(layer, keras.Layer) and heads in find_layers(layer, TaskHeads)
    return bool(sorted(heads)[index] == task)


def outputs_error(model: keras.Model, heads: TaskHeads, outputs: Nested) -> ValueError:
    """Return the error of a model whose outputs are not the predictions of its heads."""
    received = list(outputs) if isinstance(outputs, Mapping) else short_repr(outputs)
    return ValueError(
        f"The outputs of {model.name!r} must be the predictions of its TaskHeads {heads.name!r}, "
        f"a dict with all tasks, {list(heads)}. Make a second keras.Model for other outputs. "
        f"Received: outputs={received}"
    )
