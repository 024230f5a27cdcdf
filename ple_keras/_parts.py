"""What a model's weights belong to, by name: experts, gates, heads, and all else by path."""

from collections.abc import Iterator
from typing import Any

from ple_keras._levels import find_levels
from ple_keras.head import Head
from ple_keras.task_heads import TaskHeads

Part = tuple[Any, tuple[Any, ...]]  # a variable, and where in it; () for all of it
Parts = dict[str, list[Part]]


def named_parts(model: Any, level_names: dict[str, str]) -> Parts:
    """Everything that a built model has learned, by what it belongs to.

    Args:
        model: The model or layer.
        level_names: What to call each level, by its key.
    """
    parts: Parts = {}
    known = set()
    for key, block in find_levels(model).items():
        parts |= {f"{level_names[key]}/{name}": part for name, part in block._parts().items()}
        known |= _ids(block.weights)
    for layer in [model, *model._flatten_layers(include_self=False)]:
        if isinstance(layer, Head):
            parts |= _head_parts(layer)
            known |= _ids(layer.weights)
        elif isinstance(layer, TaskHeads):
            parts |= dict(_loss_weight_parts(layer))
            known |= _ids(layer.weights)
    others = [weight for weight in model.weights if id(weight) not in known]
    return parts | {_path(weight, model): [(weight, ())] for weight in others}


def _head_parts(head: Head) -> Parts:
    tower = getattr(head, "_tower", None)
    of_tower = tower.weights if tower else []
    rest = [weight for weight in head.weights if id(weight) not in _ids(of_tower)]
    found = {f"{head.task}/tower": of_tower, f"{head.task}/head": rest}
    return {name: [(w, ()) for w in weights] for name, weights in found.items() if weights}


def _loss_weight_parts(heads: TaskHeads) -> Iterator[tuple[str, list[Part]]]:
    variables = [heads._loss_weights.multipliers, heads._loss_weights.log_variances]
    for index, head in enumerate(heads._heads()):
        yield f"{head.task}/loss_weight", [(v, (index,)) for v in variables if v is not None]


def _path(weight: Any, model: Any) -> str:
    """A weight's path within the model; only a subclass's paths begin with the model's name."""
    path: str = weight.path
    return path.removeprefix(f"{model.name}/")


def _ids(weights: list[Any]) -> set[int]:
    return {id(weight) for weight in weights}
