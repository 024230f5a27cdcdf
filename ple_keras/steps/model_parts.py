"""The levels and heads of a model, and the labels of its tasks."""

from collections.abc import Iterable
from itertools import pairwise

import keras

from ple_keras._checks import check_by_task
from ple_keras._keras.layers import Path, find_layers, walk
from ple_keras._keras.processes import replica_count
from ple_keras._typing import ByName, Nested, TaskName
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.labels.sample_space import check_dtype
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.sequential_block import SequentialBlock


def find_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    """Return a dict of every CGCBlock in a model or layer, in the order in which they were added.

    A key is `{name of the SequentialBlock}/{index}`, or the block's name outside of a
    SequentialBlock. Equal keys are prefixed with the names of the enclosing layers.

    Raises:
        ValueError: If two levels still have the same key.
    """
    paths = []
    for path in walk(model):
        levels = [layer for layer in path if isinstance(layer, CGCBlock)]
        if levels == [path[-1]]:  # and not inside an expert of another level
            paths.append(path)
    names_by_path = [_path_names(path) for path in paths]
    keys = [names[-1] for names in names_by_path]
    found: dict[str, CGCBlock] = {}
    for path, names in zip(paths, names_by_path):
        key = names[-1] if keys.count(names[-1]) == 1 else "/".join(names)
        if key in found:
            raise ValueError(
                f"model must not contain two blocks with the same name, {key!r}. "
                f"Received: model={model!r}"
            )
        found[key] = path[-1]
    return found


def _path_names(path: Path) -> list[str]:
    """Return the names of the layers on a path, with `{name}/{index}` in a SequentialBlock.

    The name of the first layer is omitted, unless it is the whole path.
    """
    names = []
    for outer, layer in pairwise(path):
        if isinstance(outer, SequentialBlock) and layer in outer.layers:
            names.append(f"{outer.name}/{outer.layers.index(layer)}")
        elif not isinstance(layer, SequentialBlock):
            names.append(layer.name)
    return names or [path[0].name]


def built_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    """Return the built levels of a model, which omits levels that it never calls.

    Raises:
        TypeError, ValueError: As for `check_model`, and if the model has no built level.
    """
    check_model(model)
    built = {key: block for key, block in find_levels(model).items() if block.built}
    if not built:
        raise ValueError(
            "model must contain a PLEBlock, an MMoEBlock or a CGCBlock that it calls. "
            f"Received: model={model!r}"
        )
    return built


def check_model(model: keras.Layer) -> None:
    """Check that a model can be inspected.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If it is not built, or a strategy has several replicas, each of which runs every
            batch.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model or layer. Received: model={model!r}")
    replicas = replica_count()
    if replicas > 1:
        raise ValueError(
            "strategy must have one replica during inspection, since each replica runs every "
            "batch. Leave `strategy.scope()` first, in which the model can be created. "
            f"Received: strategy.num_replicas_in_sync={replicas}"
        )
    if not model.built:
        raise ValueError(
            "model must be built before inspection. Call or train it first. "
            f"Received: model={model!r}, built=False"
        )


def trained_heads(model: keras.Layer) -> dict[TaskName, Head]:
    """Return the heads that have a loss, in task order.

    Raises:
        ValueError: If there is none.
    """
    layers = find_layers(model, TaskHeads)
    heads = {task: head for layer in layers for task, head in layer._trained_heads().items()}
    if not heads:
        raise ValueError(f"model must have TaskHeads with losses. Received: model={model!r}")
    return heads


def task_labels(y: Nested, tasks: Iterable[TaskName]) -> ByName:
    """Return the labels of tasks. For one task, `y` can be the array itself, as for `fit`."""
    tasks = list(tasks)
    is_array = len(tasks) == 1 and hasattr(y, "shape")
    labels = check_by_task({tasks[0]: y} if is_array else y, tasks, "y")
    missing = [task for task in tasks if labels.get(task) is None]
    if missing:
        raise ValueError(
            f"y must have labels for each of {tasks}; missing: {missing}. "
            f"Received: y={{{', '.join(map(repr, labels))}}}"
        )
    for task in tasks:
        check_dtype(labels[task], f"y[{task!r}]")
    return labels
