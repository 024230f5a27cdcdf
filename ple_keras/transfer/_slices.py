"""The weights of layers and models by name, as slices of variables, and their copying."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.base_layer import BaseLayer
from ple_keras._keras.internals import children
from ple_keras._keras.names import to_snake_case
from ple_keras._keras.walking import Path, find_layers, walk
from ple_keras._typing import WeightSlice
from ple_keras.heads.head import Head
from ple_keras.heads.hedged_head import HedgedHead
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.gate import Gate
from ple_keras.layers.stream_features import StreamFeatures

WeightSlices = dict[str, list[WeightSlice]]
# A short name, a longer one for names that are not unique, and the slices.
NamedSlices = tuple[str, str, list[WeightSlice]]
Change = Callable[[Any, np.ndarray], np.ndarray]  # of the target variable and the values


def expert_slices(block: CGCBlock) -> dict[str, list[WeightSlice]]:
    """Return the parts of each expert of a built block, in the order of the expert's weights."""
    bank = block._level.bank
    return {expert: bank.slices(expert) for expert in block.expert_names}


def gate_slices(block: CGCBlock) -> dict[str, list[WeightSlice]]:
    """Return the parts of the gates of a built block.

    A gate has a key per expert, such as "gate/click/shared/expert_0", for its column of W, and
    "gate/click/gate_block".
    """
    slices: dict[str, list[WeightSlice]] = {}
    for name, gate in block._level.gates.items():
        if gate.num_experts == 1:
            continue
        # With LoRA, the attribute `kernel` is a tensor, W plus the update.
        kernel = next(w for w in gate._projection.weights if w.name == "kernel")
        for i, expert in enumerate(block.gate_experts[name]):
            slices[f"gate/{name}/{expert}"] = [(kernel, (slice(None), i))]
        if hasattr(gate, "_block"):
            slices[f"gate/{name}/gate_block"] = [(weight, ()) for weight in gate._block.weights]
    return slices


def level_slices(block: CGCBlock) -> dict[str, list[WeightSlice]]:
    """Return the parts of the experts and gates of a built block."""
    return expert_slices(block) | gate_slices(block)


def slices_of_levels(levels: Mapping[str, CGCBlock]) -> WeightSlices:
    """Return the slices of the experts and gates of built levels, prefixed with the level."""
    return {
        f"{level}/{name}": slices
        for level, block in levels.items()
        for name, slices in level_slices(block).items()
    }


def named_slices(model: keras.Layer, levels: Mapping[str, CGCBlock]) -> WeightSlices:
    """Return all weights of a built model by name.

    Args:
        model: The model or layer.
        levels: Its built levels, by name.

    Raises:
        ValueError: If two of them have the same name.
    """
    found = [(name, name, slices) for name, slices in slices_of_levels(levels).items()]
    for path in walk(model):
        layer, prefix = path[-1], _path_prefix(path)
        if isinstance(layer, HedgedHead):
            found += _hedged_slices(layer, prefix)
        elif isinstance(layer, Head) and not isinstance(path[-2:][0], HedgedHead):
            found += _head_slices(layer, layer.task, prefix)
        elif isinstance(layer, TaskHeads):
            found += _loss_weight_slices(layer, prefix)
        elif isinstance(layer, StreamFeatures):
            for copy in layer.layers:
                weights: list[WeightSlice] = [(weight, ()) for weight in copy.weights]
                found.append((copy.name, f"{prefix}{copy.name}", weights))
    known = {id(variable) for *_, slices in found for variable, _ in slices}
    return _by_name([*found, *_other_slices(walk(model), known)], model)


def _path_prefix(path: Path, name_of: Callable[[Any], str] = attrgetter("name")) -> str:
    """Return the names of the layers on a path, without the model's.

    Keras's own paths omit the enclosing models, and change when a file is loaded.
    """
    return "".join(f"{name_of(layer)}/" for layer in path[1:])


def _name_without_number(layer: keras.Layer) -> str:
    """Return the name of a layer, without the number in the automatic name of a block."""
    name = re.sub(r"_\d+$", "", layer.name)
    is_automatic = isinstance(layer, BaseLayer) and name == to_snake_case(type(layer).__name__)
    return name if is_automatic else str(layer.name)


def _head_slices(head: Head, start: str, path: str) -> Iterator[NamedSlices]:
    tower = getattr(head, "_tower", None)
    of_tower = tower.weights if tower else []
    ids = {id(weight) for weight in of_tower}
    rest = [weight for weight in head.weights if id(weight) not in ids]
    for name, weights in (("tower", of_tower), ("head", rest)):
        if weights:
            yield f"{start}/{name}", f"{path}{name}", [(weight, ()) for weight in weights]


def _hedged_slices(head: HedgedHead, path: str) -> Iterator[NamedSlices]:
    yield f"{head.task}/mixture", f"{path}mixture", [(head.mixture, ())]
    for branch, of_branch in zip(head.branch_names, head._branch_heads()):
        yield from _head_slices(of_branch, f"{head.task}/{branch}", f"{path}{branch}/")


def _loss_weight_slices(heads: TaskHeads, path: str) -> Iterator[NamedSlices]:
    variables = [heads._multipliers, heads._log_variances]
    for index, task in enumerate(heads.trained_tasks):
        name = f"{task}/loss_weight"
        yield name, f"{path}{name}", [(v, (index,)) for v in variables if v is not None]


def _other_slices(paths: Iterable[Path], known: set[int]) -> Iterator[NamedSlices]:
    """Yield the unknown weights, by path; skip the statistics of gates."""
    for path in paths:
        layer = path[-1]
        short, long = _path_prefix(path, _name_without_number), _path_prefix(path)
        of_children = {id(weight) for child in children(layer) for weight in child.weights}
        for weight in layer.weights:
            if id(weight) in of_children | known or isinstance(layer, Gate):
                continue
            known.add(id(weight))
            yield f"{short}{weight.name}", f"{long}{weight.name}", [(weight, ())]


def _by_name(found: list[NamedSlices], model: keras.Layer) -> WeightSlices:
    counts = Counter(name for name, *_ in found)
    by_name: WeightSlices = {}
    for short, long, slices in found:
        name = short if counts[short] == 1 else long
        if name in by_name:
            raise ValueError(
                "source and target must not contain two weights or heads with the same name, "
                f"{name!r}. Received: model={model!r}"
            )
        by_name[name] = slices
    return by_name


def check_built(layer: keras.Layer, argument: str) -> None:
    """Check that an argument is a Keras layer that is built and not quantized."""
    if not isinstance(layer, keras.Layer):
        raise TypeError(
            f"{argument} must be a Keras model or layer. Received: {argument}={layer!r}"
        )
    if not layer.built:
        raise ValueError(
            f"{argument} must be built: call it on data first. "
            f"Received: {argument}={layer!r}, built=False"
        )
    layers = find_layers(layer, keras.Layer)
    quantized = [child.path for child in layers if child.quantization_mode and child.path]
    if quantized:
        raise ValueError(
            f"{argument} must not be quantized: transfer weights before quantization. "
            f"Received: {argument}={layer!r} with {quantized[0]!r} quantized"
        )


def shape_difference(source: list[WeightSlice], target: list[WeightSlice]) -> str:
    """Return the shapes of both lists of slices as text; "" if they are equal."""
    first, second = [[_slice_shape(item) for item in slices] for slices in (source, target)]
    return "" if first == second else f"shapes {first} in the source, {second} in the target"


def _slice_shape(weight_slice: WeightSlice) -> tuple[int, ...]:
    variable, index = weight_slice
    return np.broadcast_to(0, variable.shape)[index].shape


def copy_slices(
    pairs: Iterable[tuple[WeightSlice, WeightSlice]], change: Change = lambda _, values: values
) -> None:
    """Assign the values of the first slice of each pair, after `change`, to the second."""
    arrays: dict[int, tuple[Any, np.ndarray]] = {}
    for (source, source_index), (target, target_index) in pairs:
        if id(target) not in arrays:
            arrays[id(target)] = target, np.array(ops.convert_to_numpy(target))
        values = ops.convert_to_numpy(source)[source_index]
        arrays[id(target)][1][target_index] = change(target, values)
    for target, array in arrays.values():
        target.assign(array)
