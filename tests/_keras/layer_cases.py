"""Table of the public layers, for tests that apply to all of them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.pairs import fewer


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer with the widths of its inputs and outputs, by key for a dict.

    Attributes:
        make: A function from arguments of `keras.layers.Layer` to the layer.
        inputs: The width of the input, or of each input.
        outputs: The width of the output, or of each output.
        is_head: Whether outputs are at least float32 under every policy.
    """

    make: Callable[..., Any]
    inputs: int | Mapping[str, int]
    outputs: int | Mapping[str, int]
    is_head: bool = False

    def shape(self, *leading):
        return by_key(lambda width: (*leading, width), self.inputs)

    def output_shape(self, *leading):
        return by_key(lambda width: (*leading, width), self.outputs)

    def arrays(self, *leading, dtype="float32"):
        return by_key(lambda width: features(*leading, width).astype(dtype), self.inputs)

    def symbols(self, *leading, dtype="float32"):
        return by_key(lambda width: keras.Input((*leading, width), dtype=dtype), self.inputs)

    def model(self, layer):
        inputs = self.symbols()
        return keras.Model(inputs, layer(inputs))


def by_key(function, value):
    """Return `function` of a value, or of every value of a dict, at any depth."""
    if isinstance(value, Mapping):
        return {key: by_key(function, item) for key, item in value.items()}
    return function(value)


def plain(value):
    """Return a dict without dicts in it, with one key if the value is not a dict."""
    if not isinstance(value, Mapping):
        return {"only": value}
    return {
        key if name == "only" else f"{key}/{name}": item
        for key, inside in value.items()
        for name, item in plain(inside).items()
    }


TASKS = ["buy", "click"]


@keras.saving.register_keras_serializable(package="tests")
class Joined(keras.layers.Layer):
    """Feature network of two columns, built by its first call. It needs no `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.dense = keras.layers.Dense(3, dtype=self.dtype_policy)

    def call(self, inputs):
        return self.dense(keras.ops.concatenate([inputs["price"], inputs["age"]], axis=-1))

    def compute_mask(self, inputs, previous_mask):
        return previous_mask["price"]

    def compute_output_shape(self, input_shape):
        return (*input_shape["price"][:-1], 3)


CASES = {
    "expert": Case(lambda **kw: pk.ExpertBlock([4, 3], **kw), 5, 3),
    "expert_batchnorm": Case(
        lambda **kw: pk.ExpertBlock([4, 3], normalization="batch", use_bias=False, **kw), 5, 3
    ),
    "expert_layernorm_dropout": Case(
        lambda **kw: pk.ExpertBlock(
            [4, 3],
            activation="gelu",
            normalization="layer",
            dropout=0.25,
            kernel_regularizer="l2",
            kernel_initializer=keras.initializers.HeNormal(seed=1),
            **kw,
        ),
        5,
        3,
    ),
    "gate": Case(lambda **kw: pk.Gate(3, softmax_temperature=0.5, **kw), 5, 3),
    "gate_with_block": Case(
        lambda **kw: pk.Gate(3, gate_block=[4], track_weights=True, balance_regularizer=0.1, **kw),
        5,
        3,
    ),
    "cgc_stacked": Case(
        lambda **kw: pk.CGCBlock(
            TASKS,
            [4, 3],
            num_task_experts={"buy": 2, "click": 1},
            gate_block=3,
            enable_gate_weights_metrics=True,
            gate_kwargs={"balance_regularizer": 0.1},
            **kw,
        ),
        5,
        {"buy": 3, "click": 3, "shared": 3},
    ),
    "cgc_copied": Case(
        lambda **kw: pk.CGCBlock(TASKS, keras.layers.Dense(3), add_shared_gate=False, **kw),
        5,
        {"buy": 3, "click": 3},
    ),
    "cgc_dict_inputs": Case(
        lambda **kw: pk.CGCBlock(TASKS, [4, 3], **kw),
        {"buy": 5, "click": 4, "shared": 6},
        {"buy": 3, "click": 3, "shared": 3},
    ),
    "sequential": Case(
        lambda **kw: pk.SequentialBlock(
            [keras.layers.Dense(4, name="first"), pk.CGCBlock(TASKS, 3, name="second")], **kw
        ),
        5,
        {"buy": 3, "click": 3, "shared": 3},
    ),
    "ple": Case(
        lambda **kw: pk.PLEBlock(2, TASKS, [4, 3], num_task_experts=2, **kw),
        5,
        {"buy": 3, "click": 3},
    ),
    "ple_dict_inputs": Case(
        lambda **kw: pk.PLEBlock(2, TASKS, 3, num_shared_experts=2, **kw),
        {"buy": 5, "click": 4, "shared": 6},
        {"buy": 3, "click": 3},
    ),
    "mmoe": Case(
        lambda **kw: pk.MMoEBlock(TASKS, [4, 3], num_experts=3, **kw), 5, {"buy": 3, "click": 3}
    ),
    "shared_bottom": Case(
        lambda **kw: pk.SharedBottomBlock(TASKS, [4, 3], **kw), 5, {"buy": 3, "click": 3}
    ),
    "hedged": Case(
        lambda **kw: pk.HedgedBlock(TASKS, [4, 3], **kw),
        {"buy": 5, "click": 4, "shared": 6},
        {task: {"own": 3, "shared": 3} for task in TASKS},
    ),
    "hedged_of_branches": Case(
        lambda **kw: pk.HedgedBlock(
            TASKS,
            branches={
                "1st": pk.PLEBlock(2, TASKS, [4], name="ple", dtype=kw.get("dtype")),
                "shared": pk.SharedBottomBlock(TASKS, 3, dtype=kw.get("dtype")),
            },
            **kw,
        ),
        5,
        {task: {"1st": 4, "shared": 3} for task in TASKS},
    ),
    "stream_features": Case(
        lambda **kw: pk.StreamFeatures(
            TASKS, pk.ExpertBlock([4, 3], dtype=kw.get("dtype")), own=["click"], **kw
        ),
        5,
        {"buy": 3, "click": 3, "shared": 3},
    ),
    "stream_features_dict_inputs": Case(
        lambda **kw: pk.StreamFeatures(TASKS, Joined(dtype=kw.get("dtype")), shared=False, **kw),
        {"price": 2, "age": 1},
        {"buy": 3, "click": 3},
    ),
    "head": Case(lambda **kw: pk.Head("buy", units=2, **kw), 5, 2, is_head=True),
    "binary_head": Case(lambda **kw: pk.BinaryHead("buy", tower=[4], **kw), 5, 1, is_head=True),
    "regression_head": Case(
        lambda **kw: pk.RegressionHead("buy", units=2, activation="softplus", **kw),
        5,
        2,
        is_head=True,
    ),
    "multiclass_head": Case(
        lambda **kw: pk.MulticlassHead("buy", tower=keras.layers.Dense(4), num_classes=3, **kw),
        5,
        3,
        is_head=True,
    ),
    "task_heads": Case(
        lambda **kw: pk.TaskHeads(
            [pk.BinaryHead("buy", tower=4), pk.MulticlassHead("click", num_classes=3)], **kw
        ),
        {"buy": 5, "click": 4},
        {"buy": 1, "click": 3},
        is_head=True,
    ),
    "task_heads_hedged": Case(
        lambda **kw: pk.TaskHeads(
            [
                pk.ProductHead("both", of=("click", "buy")),
                pk.BinaryHead("buy", tower=4),
                pk.BinaryHead("click"),
            ],
            **kw,
        ),
        {"buy": {"own": 5, "shared": 4}, "click": {"own": 3, "shared": 4}},
        {"both": 1, "buy": 1, "click": 1},
        is_head=True,
    ),
    "task_heads_product": Case(
        lambda **kw: pk.TaskHeads(
            [
                pk.ProductHead("both", of=("click", "buy")),
                pk.BinaryHead("buy", tower=4),
                pk.BinaryHead("click"),
            ],
            **kw,
        ),
        {"buy": 5, "click": 4},
        {"both": 1, "buy": 1, "click": 1},
        is_head=True,
    ),
}


# One of each computation. Every backend tests these; PyTorch alone tests the others.
SOME = (
    *("expert_layernorm_dropout", "gate_with_block", "cgc_stacked", "cgc_copied"),
    *("ple_dict_inputs", "hedged_of_branches", "stream_features_dict_inputs"),
    *("task_heads_hedged", "task_heads_product"),
)

every_layer = pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
every_computation = pytest.mark.parametrize("case", fewer(CASES, *SOME))
