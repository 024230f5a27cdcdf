"""Models of `step_time`: ours, its baselines and other libraries.

All have equal towers, Dense layers [64, 1], losses and optimizers. Differences in time are
therefore due to the experts and gates.

    ours   a PLEBlock
    traced on PyTorch, the same as a MultiTaskModel
    loop   the same PLE from single Dense layers: the outputs of a gate's experts are stacked to
           (B, E, H), multiplied by the gate's weights and summed, as in the other libraries; it has
           the same parameters as ours
    floor  a plain chain of Dense layers with the multiply-adds of all experts; not a PLE, but a
           lower bound for the cost of these multiply-adds

DeepCTR (TensorFlow) and torch-rechub (PyTorch) have their own input layers. Here, the D features
are one dense feature.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import ple_keras as pk

from ._peers import deepctr_ple, rechub_ple

TOWER = 64
SHARED = "shared"


@dataclass(frozen=True)
class Case:
    """Sizes of a PLE and of its batch.

    Attributes:
        tasks: K, the number of tasks.
        experts: The units of each Dense layer of an expert.
        levels: N, the number of levels.
        features: D, the width of the input.
        batch: B. With 1, the case measures serving: nothing is trained.
        task_experts: The number of experts of each task in each level.
        shared_experts: The number of shared experts in each level.
    """

    tasks: int
    experts: tuple[int, ...]
    levels: int
    features: int
    batch: int
    task_experts: int = 2
    shared_experts: int = 2

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks."""
        return [f"task_{i}" for i in range(self.tasks)]

    @property
    def floor_widths(self) -> list[int]:
        """Units of the floor: a plain chain of Dense layers, two for each level.

        A level of E experts with input width D and widths h_1, ..., h_n needs E (D h_1 + h_1 h_2 +
        ... + h_{n-1} h_n) multiply-adds. It is replaced by two Dense layers, D to W and W to h_n. W
        is chosen so that W (D + h_n) equals that number. For experts of two layers, W is E h_1.
        """
        last = self.experts[-1]
        widths = []
        for level in range(self.levels):
            wide = self._level_multiply_adds(level) / (self._level_input(level) + last)
            widths += [max(1, round(wide)), last]
        return widths

    def _level_multiply_adds(self, level: int) -> int:
        widths = [self._level_input(level), *self.experts]
        one = sum(math.prod(pair) for pair in pairwise(widths))
        return (self.tasks * self.task_experts + self.shared_experts) * one

    def _level_input(self, level: int) -> int:
        return self.experts[-1] if level else self.features


CASES = {
    "A": Case(3, (256, 128), 2, 128, 4096),
    "B": Case(8, (64, 32), 3, 32, 512),
    "C": Case(8, (64, 32), 3, 32, 1),
    "D": Case(8, (64, 32), 3, 32, 512, task_experts=1, shared_experts=1),
}


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


def traced(case: Case) -> keras.Model:
    """Return the same PLE and towers as a MultiTaskModel, whose steps PyTorch traces."""
    features = ours(case).get_layer("ple")
    heads = pk.TaskHeads([pk.BinaryHead(t, [TOWER], metrics=[]) for t in case.task_names])
    inputs = keras.Input((case.features,))
    return pk.MultiTaskModel(inputs, heads(features(inputs)))


def floor(case: Case) -> keras.Model:
    """Return a chain of Dense layers (see `Case.floor_widths`). Every tower reads its output."""
    inputs = features = keras.Input((case.features,))
    for i, units in enumerate(case.floor_widths):
        features = layers.Dense(units, activation="relu", name=f"chain-{i}")(features)
    return _add_towers(case, inputs, dict.fromkeys(case.task_names, features))


def loop(case: Case) -> keras.Model:
    """Return a PLE of plain Dense layers."""
    inputs = keras.Input((case.features,))
    counts = {**dict.fromkeys(case.task_names, case.task_experts), SHARED: case.shared_experts}
    return _add_towers(case, inputs, loop_levels(inputs, case.experts, case.levels, counts))


def loop_levels(
    features: Any, experts: Sequence[int], levels: int, counts: dict[str, int]
) -> dict[str, Any]:
    """Return the output of each task. `counts` has the numbers of experts, "shared" last."""
    streams = dict.fromkeys(counts, features)
    for level in range(levels):
        outputs = {
            stream: [
                dense_chain(streams[stream], experts, f"level_{level}-{stream}-expert_{i}")
                for i in range(count)
            ]
            for stream, count in counts.items()
        }
        mixed = {}
        for stream in counts if counts[SHARED] and level < levels - 1 else [*counts][:-1]:
            read = [*counts] if stream == SHARED else [stream, SHARED]
            together = [output for name in read for output in outputs[name]]
            mixed[stream] = _mix_experts(together, streams[stream], f"level_{level}-{stream}-gate")
        streams = mixed
    return streams


def dense_chain(features: Any, widths: Sequence[int], name: str) -> Any:
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


@dataclass(frozen=True)
class Variant:
    """Training step and prediction on the fixed batch, and the number of trainable parameters."""

    train: Callable[[], Any]
    predict: Callable[[], Any]
    parameters: int


def keras_variant(model: keras.Model, case: Case) -> Variant:
    """Compile the model with Adam and Keras's cross-entropy for each output, without metrics."""
    x, labels = batch(case)
    losses, y = (
        keras.tree.map_structure(lambda _, leaf=leaf: leaf, model.output)
        for leaf in ("binary_crossentropy", labels)
    )
    model.compile("adam", loss=None if isinstance(model, pk.MultiTaskModel) else losses)
    return _variant(model, x, y)


def _variant(model: keras.Model, x: Any, y: Any) -> Variant:
    return Variant(
        train=lambda: model.train_on_batch(x, y),
        predict=lambda: model.predict_on_batch(x),
        parameters=sum(math.prod(weight.shape) for weight in model.trainable_weights),
    )


def torch_variant(model: Any, case: Case) -> Variant:
    """Return the variant of torch-rechub's PLE, which is trained with Adam."""
    import torch

    x, labels = batch(case)
    device = keras.ops.convert_to_tensor(x).device
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, eps=1e-7)  # Keras's default
    cross_entropy = torch.nn.BCELoss()

    def train() -> list[float]:
        model.train()
        predictions = model({"numbers": torch.from_numpy(x).to(device)})  # (B, K)
        y = torch.from_numpy(labels).to(device)[:, 0]
        losses = [cross_entropy(prediction, y) for prediction in predictions.unbind(1)]
        model.zero_grad()
        sum(losses).backward()
        optimizer.step()
        return [loss.item() for loss in losses]

    def predict() -> Any:
        model.eval()
        with torch.no_grad():
            return model({"numbers": torch.from_numpy(x).to(device)}).cpu().numpy()

    return Variant(train, predict, sum(weight.numel() for weight in model.parameters()))


NETWORKS = {"floor": floor, "loop": loop, "ours": ours}
if keras.backend.backend() == "torch":
    NETWORKS["traced"] = traced


def build(name: str, case: Case) -> Variant:
    """Return a variant that is ready for its first step: a key of NETWORKS or of PEERS."""
    keras.utils.set_random_seed(0)
    if name in NETWORKS:
        return keras_variant(NETWORKS[name](case), case)
    tasks = dict.fromkeys(case.task_names, "binary")
    sizes = case.levels, case.task_experts, case.shared_experts
    arguments = {}, 0, case.features, tasks, sizes, case.experts, TOWER
    if name == "DeepCTR":
        return keras_variant(deepctr_ple(*arguments), case)
    return torch_variant(rechub_ple(*arguments), case)


# Blocks with options, on a table of codes, by name: the block, its arguments, and whether each
# stream has a copy of the table.
PLE = partial(pk.PLEBlock, 2)
OPTIONS: dict[str, tuple[Callable[..., keras.Layer], dict[str, bool], bool]] = {
    "PLE": (PLE, {}, False),
    "PLE, gate statistics": (PLE, {"enable_gate_weights_metrics": True}, False),
    "PLE, isolated": (PLE, {"isolate_task_experts": True}, False),
    "PLE, isolated, features by stream": (PLE, {"isolate_task_experts": True}, True),
    "shared bottom": (pk.SharedBottomBlock, {}, False),
    "CGC, features by stream": (pk.CGCBlock, {"add_shared_gate": False}, True),
    "hedged": (pk.HedgedBlock, {}, True),
    "hedged, common features": (pk.HedgedBlock, {}, False),
}
OPTION_TASKS, OPTION_BATCH = ["first", "second"], 1024
COLUMNS, ROWS, WIDTH, NUMBERS = 38, 100_000, 8, 7


def build_option(name: str) -> Variant:
    """Return a model of OPTIONS that is ready for its first step."""
    keras.utils.set_random_seed(0)
    block, arguments, has_copies = OPTIONS[name]
    rng = np.random.default_rng(0)
    x = {
        "codes": rng.integers(ROWS, size=(OPTION_BATCH, COLUMNS)).astype("int32"),
        "numbers": rng.standard_normal((OPTION_BATCH, NUMBERS), "float32"),
    }
    y = {task: (rng.random((OPTION_BATCH, 1)) < 0.3).astype("float32") for task in OPTION_TASKS}
    inputs = {key: keras.Input(v.shape[1:], dtype=v.dtype.name, name=key) for key, v in x.items()}
    embedded = layers.Flatten()(layers.Embedding(ROWS, WIDTH)(inputs["codes"]))
    features = layers.Concatenate()([embedded, inputs["numbers"]])
    heads = pk.TaskHeads([pk.BinaryHead(task, [TOWER], metrics=[]) for task in OPTION_TASKS])
    if has_copies:
        features = pk.StreamFeatures(heads, keras.Model(inputs, features))(inputs)
    model = pk.MultiTaskModel(inputs, heads(block(heads, [96, 64], **arguments)(features)))
    model.compile("adam")
    return _variant(model, x, y)
