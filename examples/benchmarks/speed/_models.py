"""Models under comparison: ours, and its two baselines, the floor and the loop.

All three are functional Keras models with equal towers, Dense layers [64, 1]. Loss and optimizer
are equal too (`keras_variant`). Differences in time are therefore due to experts and gates.

    ours   a PLEBlock
    loop   the same PLE from single Dense layers: the outputs of a gate's experts are stacked to
           (B, E, H), multiplied by the gate's weights and summed, as in the libraries of
           `_peers.py`; it has the same parameters as ours
    floor  a plain chain of Dense layers with the multiply-adds of all experts; not a PLE, but a
           lower bound for the cost of these multiply-adds
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
    """Return a PLE of this library with plain towers, without heads and masked losses."""
    block = pk.PLEBlock(
        case.levels,
        case.task_names,
        list(case.experts),
        case.task_experts,
        case.shared_experts,
        name="ple",
    )
    inputs = keras.Input((case.features,))
    return _add_towers(case, inputs, block(inputs))


def floor(case: Case) -> keras.Model:
    """Return a chain of Dense layers, see `Case.floor_widths`. Every tower reads its output."""
    inputs = features = keras.Input((case.features,))
    for i, units in enumerate(case.floor_widths):
        features = layers.Dense(units, activation="relu", name=f"chain-{i}")(features)
    return _add_towers(case, inputs, dict.fromkeys(case.task_names, features))


def loop(case: Case) -> keras.Model:
    """Return a PLE of plain Dense layers."""
    inputs = keras.Input((case.features,))
    streams = dict.fromkeys([*case.task_names, SHARED], inputs)
    for level in range(case.levels):
        streams = _loop_level(case, level, streams)
    return _add_towers(case, inputs, streams)


def _loop_level(case: Case, level: int, streams: dict[str, Any]) -> dict[str, Any]:
    """Return the output of each gate. The last level has no shared gate."""
    counts = {**dict.fromkeys(case.task_names, case.task_experts), SHARED: case.shared_experts}
    experts = {
        stream: [
            _dense_chain(streams[stream], case.experts, f"level_{level}-{stream}-expert_{i}")
            for i in range(count)
        ]
        for stream, count in counts.items()
    }
    mixed = {
        task: _mix_experts(
            experts[task] + experts[SHARED], streams[task], f"level_{level}-{task}-gate"
        )
        for task in case.task_names
    }
    if case.shared_experts and level < case.levels - 1:
        all_experts = [output for outputs in experts.values() for output in outputs]
        mixed[SHARED] = _mix_experts(all_experts, streams[SHARED], f"level_{level}-{SHARED}-gate")
    return mixed


def _dense_chain(features: Any, widths: tuple[int, ...], name: str) -> Any:
    for step, units in enumerate(widths):
        features = layers.Dense(units, activation="relu", name=f"{name}-{step}")(features)
    return features


def _mix_experts(experts: list[Any], features: Any, name: str) -> Any:
    """Return the experts' outputs, weighted by a gate that reads `features`."""
    if len(experts) == 1:
        return experts[0]
    gate = layers.Dense(len(experts), activation="softmax", use_bias=False, name=name)
    weights = ops.expand_dims(gate(features), axis=-1)  # (B, E, 1)
    return ops.sum(ops.stack(experts, axis=1) * weights, axis=1)


def _add_towers(case: Case, inputs: Any, features: dict[str, Any]) -> keras.Model:
    """Return a model that predicts a probability per task from its features."""
    outputs = {}
    for task in case.task_names:
        hidden = layers.Dense(TOWER, activation="relu", name=f"tower-{task}")(features[task])
        outputs[task] = layers.Dense(1, activation="sigmoid", name=f"output-{task}")(hidden)
    return keras.Model(inputs, outputs)


def batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed batch: features `(B, D)`, and labels `(B, 1)` for every task."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.batch, case.features), "float32")
    return x, (rng.random((case.batch, 1)) < 0.3).astype("float32")


def check_comparison(case: Case, built: Mapping[str, keras.Model]) -> None:
    """Check that floor, loop and ours are comparable.

    The floor's chain must have the multiply-adds of the loop's experts within 1 %, counted from the
    kernels of these models. The loop must have as many parameters as ours.
    """
    chain = _multiply_adds(built["floor"], "chain-")
    experts = _multiply_adds(built["loop"], "-expert_")
    assert (chain, experts) == (case.floor_multiply_adds, case.expert_multiply_adds)
    assert abs(chain / experts - 1) <= 0.01, (
        f"floor and experts must have equal multiply-adds within 1 %: {chain:,}, {experts:,}; "
        "use wider experts, or experts of two layers"
    )
    parameters = {name: trainable_parameters(built[name]) for name in ("loop", "ours")}
    assert parameters["loop"] == parameters["ours"], (
        f"loop and ours must have equal parameters: {parameters}"
    )


def _multiply_adds(model: keras.Model, part: str) -> int:
    """Return the multiply-adds of the Dense layers with `part` in their name, for one example."""
    return sum(math.prod(layer.kernel.shape) for layer in model.layers if part in layer.name)


def trainable_parameters(model: keras.Model) -> int:
    """Return the number of trainable parameters."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@dataclass(frozen=True)
class Variant:
    """Training step and prediction on the fixed batch.

    Attributes:
        train: Runs one training step and waits for it.
        predict: Returns the predictions of the batch as NumPy arrays.
        parameters: The number of trainable parameters.
        note: The differences to ours, for the table.
        model: The Keras model. None if the variant is not a Keras model.
    """

    train: Callable[[], Any]
    predict: Callable[[], Any]
    parameters: int
    note: str = ""
    model: Any = None


def keras_variant(model: keras.Model, case: Case, jit_compile: bool | str, note: str) -> Variant:
    """Compile the model with Adam and Keras's cross-entropy for each output, without metrics."""
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
