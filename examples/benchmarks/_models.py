"""The models that are compared: ours, and the floor and the loop that it is measured against.

All three are functional Keras models with the same towers, of Dense layers [64, 1], on top. Loss
and optimizer are the same too (`keras_variant`), so that a difference in time comes from what lies
below the towers: experts and gates.

    ours   a PLEBlock
    loop   the same PLE, written with one Dense layer after another: the outputs of a gate's
           experts are stacked to (B, E, H), multiplied by the gate's weights and summed, as in
           the libraries that `_peers.py` has; it has the parameters of ours
    floor  a plain chain of Dense layers with the multiply-adds of all experts; no PLE, but
           what so many multiply-adds cost where little else is done
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from _cases import Case
from keras import layers, ops

import ple_keras as pk

TOWER = 64
SHARED = "shared"


def ours(case: Case) -> keras.Model:
    """A PLE of this library, with plain towers: no heads, no masked losses."""
    block = pk.PLEBlock(
        case.levels,
        case.task_names,
        list(case.experts),
        case.task_experts,
        case.shared_experts,
        name="ple",
    )
    inputs = keras.Input((case.features,))
    return _with_towers(case, inputs, block(inputs))


def floor(case: Case) -> keras.Model:
    """A chain, see `Case.floor_widths`; every tower reads its end."""
    inputs = features = keras.Input((case.features,))
    for i, units in enumerate(case.floor_widths):
        features = layers.Dense(units, activation="relu", name=f"chain-{i}")(features)
    return _with_towers(case, inputs, dict.fromkeys(case.task_names, features))


def loop(case: Case) -> keras.Model:
    """A PLE of plain Dense layers."""
    inputs = keras.Input((case.features,))
    streams = dict.fromkeys([*case.task_names, SHARED], inputs)
    for level in range(case.levels):
        streams = _loop_level(case, level, streams)
    return _with_towers(case, inputs, streams)


def _loop_level(case: Case, level: int, streams: dict[str, Any]) -> dict[str, Any]:
    """What each gate makes of the level's experts. The last level has no shared gate."""
    counts = {**dict.fromkeys(case.task_names, case.task_experts), SHARED: case.shared_experts}
    experts = {
        stream: [
            _dense_chain(streams[stream], case.experts, f"level_{level}-{stream}-expert_{i}")
            for i in range(count)
        ]
        for stream, count in counts.items()
    }
    mixed = {
        task: _mix(experts[task] + experts[SHARED], streams[task], f"level_{level}-{task}-gate")
        for task in case.task_names
    }
    if case.shared_experts and level < case.levels - 1:
        everyone = [output for outputs in experts.values() for output in outputs]
        mixed[SHARED] = _mix(everyone, streams[SHARED], f"level_{level}-{SHARED}-gate")
    return mixed


def _dense_chain(features: Any, widths: tuple[int, ...], name: str) -> Any:
    for step, units in enumerate(widths):
        features = layers.Dense(units, activation="relu", name=f"{name}-{step}")(features)
    return features


def _mix(experts: list[Any], features: Any, name: str) -> Any:
    """The experts' outputs, weighed by a gate that reads `features`."""
    if len(experts) == 1:
        return experts[0]
    gate = layers.Dense(len(experts), activation="softmax", use_bias=False, name=name)
    weights = ops.expand_dims(gate(features), axis=-1)  # (B, E, 1)
    return ops.sum(ops.stack(experts, axis=1) * weights, axis=1)


def _with_towers(case: Case, inputs: Any, features: dict[str, Any]) -> keras.Model:
    """A probability a task, from what its tower makes of its features."""
    outputs = {}
    for task in case.task_names:
        hidden = layers.Dense(TOWER, activation="relu", name=f"tower-{task}")(features[task])
        outputs[task] = layers.Dense(1, activation="sigmoid", name=f"output-{task}")(hidden)
    return keras.Model(inputs, outputs)


def batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The one fixed batch: features `(B, D)`, and labels `(B, 1)` that serve for every task."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.batch, case.features), "float32")
    return x, (rng.random((case.batch, 1)) < 0.3).astype("float32")


def check_comparison(case: Case, built: Mapping[str, keras.Model]) -> None:
    """That floor, loop and ours do what is said of them.

    The floor's chain has the multiply-adds of the loop's experts within 1 %, counted in the
    kernels of the very models; and the loop has as many parameters as ours.
    """
    chain = _multiply_adds(built["floor"], "chain-")
    experts = _multiply_adds(built["loop"], "-expert_")
    assert (chain, experts) == (case.floor_multiply_adds, case.expert_multiply_adds)
    assert abs(chain / experts - 1) <= 0.01, (
        f"the floor would have {chain:,} multiply-adds where the experts have {experts:,}: "
        "use wider experts, or such of two layers"
    )
    parameters = {name: trainable_parameters(built[name]) for name in ("loop", "ours")}
    assert parameters["loop"] == parameters["ours"], f"the parameters differ: {parameters}"


def _multiply_adds(model: keras.Model, part: str) -> int:
    """Of the Dense layers with `part` in their name, for one example."""
    return sum(math.prod(layer.kernel.shape) for layer in model.layers if part in layer.name)


def trainable_parameters(model: keras.Model) -> int:
    """How many numbers an optimizer changes."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@dataclass(frozen=True)
class Variant:
    """Something that trains and predicts on the fixed batch.

    Attributes:
        train: One training step, waited for.
        predict: The predictions of the batch, as NumPy arrays.
        parameters: How many numbers the optimizer changes.
        note: What differs from ours, for the table.
        model: The Keras model, where it is one.
    """

    train: Callable[[], Any]
    predict: Callable[[], Any]
    parameters: int
    note: str = ""
    model: Any = None


def keras_variant(model: keras.Model, case: Case, jit_compile: bool | str, note: str) -> Variant:
    """The model compiled: Adam, and Keras's own cross-entropy for each output; no metrics."""
    x, labels = batch(case)
    losses, y = (
        keras.tree.map_structure(lambda _, leaf=leaf: leaf, model.output)
        for leaf in ("binary_crossentropy", labels)
    )
    model.compile("adam", losses, jit_compile=jit_compile)
    return Variant(
        train=lambda: model.train_on_batch(x, y),
        predict=lambda: model.predict_on_batch(x),
        parameters=trainable_parameters(model),
        note=note,
        model=model,
    )
