"""Models that `export_formats.py` exports: one PLE or, with `--all`, every kind of block."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

import ple_keras as pk

FEATURES = 16
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


@keras.saving.register_keras_serializable(package="export_formats")
class OwnExpert(pk.ExpertBlock):
    """Custom expert: a block runs copies of it instead of stacked kernels."""


@dataclass(frozen=True)
class Case:
    """Kind of model.

    Attributes:
        block: "PLE", "MMoE" or "shared bottom".
        experts: "stacked" or "copied".
        tracked: Whether gates keep statistics.
        inputs: "one", "two" (a dict, concatenated before the block), "by stream" (a dict that the
            block takes) or "context" (features, and a context for the gates).
        policy: The dtype policy.
        option: Another property of the model, a key of `OPTIONS`.
    """

    block: str = "PLE"
    experts: str = "stacked"
    tracked: bool = False
    inputs: str = "one"
    policy: str = "float32"
    option: str = ""

    def describe(self) -> str:
        """Return the case's name in the printed table."""
        gates = "gates tracked, " * self.tracked
        option = f", {self.option}" * bool(self.option)
        return f"{self.block}, {self.experts}, {gates}{self.inputs} input, {self.policy}{option}"


OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "gate dropout": {"gate_kwargs": {"dropout": 0.3}},
    "balanced gates": {"gate_kwargs": {"balance_regularizer": 0.1}},
    "isolated experts": {"isolate_task_experts": True},
    "gate weights": {"gate_reads": "both", "gate_kwargs": {"dropout": 0.3}},  # as outputs
    "gate block": {"gate_block": [8], "gate_softmax_temperature": 0.5},
    "product head": {},
    "batch norm": {},
    "gelu tower": {},
    "learned weights": {},
}


def cases() -> Iterator[Case]:
    """Yield all combinations of blocks, experts, tracking and inputs, then policies and options."""
    blocks, inputs = ("PLE", "MMoE", "shared bottom"), ("one", "two", "by stream")
    for block, experts in itertools.product(blocks, ("stacked", "copied")):
        for tracked, form in itertools.product((False, True), inputs):
            if block != "shared bottom" or not (tracked or form == "by stream"):
                yield Case(block, experts, tracked, form)
        for policy in POLICIES[1:]:
            yield Case(block, experts, policy=policy)
    for option in filter(None, OPTIONS):
        inputs = "context" if option == "gate weights" else "one"
        yield replace(Case(), inputs=inputs, option=option)


def build(case: Case) -> keras.Model:
    """Return the model of a case, with random weights and biases."""
    keras.config.set_dtype_policy(case.policy)
    heads = _heads(case.option)
    block = _block(case, heads)
    inputs = _inputs(case.inputs, heads.task_names)
    context = {}
    if case.inputs == "context":
        features = inputs["x"]
        context = {"gate_context": inputs["device"]}
    elif case.inputs == "by stream":
        features = {name.removesuffix("_features"): x for name, x in inputs.items()}
    elif len(inputs) > 1:
        features = keras.layers.Concatenate()(list(inputs.values()))
    else:
        (features,) = inputs.values()
    struct: Any = inputs if len(inputs) > 1 else features
    model = keras.Model(struct, heads(block(features, **context)))
    if case.option == "gate weights":  # a second model of the same layers
        streams, by_level = block(features, **context, return_gate_weights=True)
        weights = {
            f"gate/{level}/{gate}": tensor
            for level, gates in by_level.items()
            for gate, tensor in gates.items()
        }
        model = keras.Model(struct, {**heads(streams), **weights})
    keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.3, size=variable.shape).astype("float32"))
    return model


def _inputs(form: str, tasks: list[str]) -> dict[str, Any]:
    """Return inputs by name. In ONNX, an input with a task's name would collide with its output."""
    widths = {"x": FEATURES}
    if form == "two":
        widths = {"user": 10, "item": FEATURES - 10}
    elif form == "context":
        widths = {"x": FEATURES, "device": 3}
    elif form == "by stream":
        widths = {f"{stream}_features": FEATURES for stream in [*tasks, "shared"]}
    return {name: keras.Input((width,), name=name) for name, width in widths.items()}


def _heads(option: str) -> pk.TaskHeads:
    activation = "gelu" if option == "gelu tower" else "relu"
    heads = [
        pk.BinaryHead("click", tower=[8]),
        pk.BinaryHead("buy"),
        pk.RegressionHead("time", tower=pk.ExpertBlock([8], activation=activation), units=2),
        pk.MulticlassHead("kind", tower=[8], num_classes=4),
    ]
    if option == "product head":
        heads.append(pk.ProductHead("click_and_buy", of=("click", "buy")))
    return pk.TaskHeads(heads, "uncertainty" if option == "learned weights" else None)


def _block(case: Case, heads: pk.TaskHeads) -> keras.Layer:
    kind = pk.ExpertBlock if case.experts == "stacked" else OwnExpert
    expert = kind([16, 8], normalization="batch" if case.option == "batch norm" else None)
    if case.block == "shared bottom":
        return pk.SharedBottomBlock(heads, expert)
    gates = {"enable_gate_weights_metrics": case.tracked, **OPTIONS[case.option]}
    if case.block == "MMoE":
        return pk.MMoEBlock(heads, expert, num_experts=4, **gates)
    return pk.PLEBlock(2, heads, expert, 2, 2, name="ple", **gates)


def make_inputs(model: keras.Model, rows: int) -> dict[str, np.ndarray]:
    """Return random inputs for a model, by name."""
    rng = np.random.default_rng(rows)
    return {x.name: rng.normal(size=(rows, *x.shape[1:])).astype("float32") for x in model.inputs}
