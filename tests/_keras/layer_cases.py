"""Table of the public layers with their arguments, for tests that apply to all of them."""

from collections.abc import Mapping
from types import FunctionType

import keras
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.pairs import fewer


class Case:
    """A layer with the widths of its inputs and outputs, keyed like its dicts.

    Args:
        cls: The class of the layer, or a function that creates it.
        inputs: The width of the input, or of each input.
        outputs: The width of the output, or of each output.
        arguments: The arguments of the layer. A value with layers is a function of their policy.
    """

    def __init__(self, cls, inputs, outputs, /, **arguments):
        self.cls, self.inputs, self.outputs, self.arguments = cls, inputs, outputs, arguments
        # Outputs of heads are at least float32 under every policy.
        self.is_head = isinstance(cls, type) and issubclass(cls, pk.Head | pk.TaskHeads)

    def make(self, **kwargs):
        """Return the layer, with arguments of every Keras layer."""
        given = {
            key: value(kwargs.get("dtype")) if isinstance(value, FunctionType) else value
            for key, value in self.arguments.items()
        }
        return self.cls(**given, **kwargs)

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


BY_TASK = {"buy": 3, "click": 3}
BY_STREAM = {**BY_TASK, "shared": 3}
STREAMS = {"buy": 5, "click": 4, "shared": 6}
COLUMNS = {"price": 2, "age": 1}
PREDICTIONS = {"both": 1, "buy": 1, "click": 1}


def layers(dtype):
    return [keras.layers.Dense(4, name="first"), pk.CGCBlock(TASKS, 3, name="second")]


def branches(dtype):
    ple = pk.PLEBlock(2, TASKS, [4], name="ple", dtype=dtype)
    return {"1st": ple, "shared": pk.SharedBottomBlock(TASKS, 3, dtype=dtype)}


def heads(dtype):
    return [pk.BinaryHead("buy", tower=4), pk.MulticlassHead("click", num_classes=3)]


def heads_and_product(dtype):
    binary = [pk.BinaryHead("buy", tower=4), pk.BinaryHead("click")]
    return [pk.ProductHead("both", of=("click", "buy")), *binary]


# All arguments of each layer occur in a case.
CASES = {
    "expert": Case(pk.ExpertBlock, 5, 3, units=[4, 3]),
    "expert_batch": Case(pk.ExpertBlock, 5, 3, units=[4, 3], normalization="batch", use_bias=False),
    "expert_layernorm_dropout": Case(
        *(pk.ExpertBlock, 5, 3),
        units=[4, 3],
        activation="gelu",
        normalization="layer",
        dropout=0.25,
        kernel_regularizer="l2",
        bias_regularizer="l1",
        kernel_initializer=keras.initializers.HeNormal(seed=1),
        bias_initializer="ones",
    ),
    "gate": Case(pk.Gate, 5, 3, num_experts=3, softmax_temperature=0.5, dropout=0.25),
    "gate_with_block": Case(
        *(pk.Gate, 5, 3),
        num_experts=3,
        gate_block=[4],
        balance_regularizer=0.1,
        track_weights=True,
        kernel_initializer="he_normal",
        kernel_regularizer="l2",
    ),
    "cgc_stacked": Case(
        *(pk.CGCBlock, 5, BY_STREAM),
        outputs=TASKS,
        expert_block=[4, 3],
        num_task_experts={"buy": 2, "click": 1},
        num_shared_experts=2,
        gate_block=3,
        gate_softmax_temperature=0.5,
        enable_gate_weights_metrics=True,
        gate_kwargs={"balance_regularizer": 0.1},
        isolate_task_experts=True,
    ),
    "cgc_copied": Case(
        *(pk.CGCBlock, 5, BY_TASK),
        outputs=TASKS,
        expert_block=lambda dtype: keras.layers.Dense(3),
        add_shared_gate=False,
    ),
    "cgc_dict_inputs": Case(
        *(pk.CGCBlock, STREAMS, BY_STREAM),
        outputs=TASKS,
        expert_block={"buy": [4, 3], "click": [3], "shared": [2, 3]},
        stack_experts=False,
    ),
    "sequential": Case(pk.SequentialBlock, 5, BY_STREAM, layers=layers),
    "ple": Case(
        *(pk.PLEBlock, 5, BY_TASK),
        **{"num_layers": 2, "outputs": TASKS, "expert_block": [[4, 3], 3]},
        num_task_experts=[1, {"buy": 2, "click": 1}],
        num_shared_experts=[2, 0],
    ),
    "ple_dict_inputs": Case(
        *(pk.PLEBlock, STREAMS, BY_TASK),
        **{"num_layers": 2, "outputs": TASKS, "expert_block": 3, "num_shared_experts": 2},
    ),
    "mmoe": Case(pk.MMoEBlock, 5, BY_TASK, outputs=TASKS, expert_block=[4, 3], num_experts=3),
    "shared_bottom": Case(pk.SharedBottomBlock, 5, BY_TASK, outputs=TASKS, bottom_block=[4, 3]),
    "hedged": Case(
        *(pk.HedgedBlock, STREAMS, {task: {"own": 3, "shared": 3} for task in TASKS}),
        outputs=TASKS,
        expert_block=[4, 3],
    ),
    "hedged_of_branches": Case(
        *(pk.HedgedBlock, 5, {task: {"1st": 4, "shared": 3} for task in TASKS}),
        outputs=TASKS,
        branches=branches,
    ),
    "number_embedding": Case(
        *(pk.NumberEmbedding, 5, 15),
        units=3,
        num_bins=2,
        activation="tanh",
        bin_boundaries=[[-1.0, 0.0, 1.0], [-3.0, 3.0], [0.0], [-2.0, -1.0], [0.0, 0.5]],
    ),
    "hedged_with_features": Case(
        *(pk.HedgedBlock, COLUMNS, {task: {"own": 3, "shared": 3} for task in TASKS}),
        outputs=TASKS,
        expert_block=lambda dtype: pk.ExpertBlock([4, 3], dtype=dtype),
        features=lambda dtype: {stream: Joined(dtype=dtype) for stream in (*TASKS, "shared")},
    ),
    "hedged_of_branches_with_features": Case(
        *(pk.HedgedBlock, COLUMNS, {task: {"1st": 4, "shared": 3} for task in TASKS}),
        outputs=TASKS,
        branches=branches,
        features=lambda dtype: Joined(dtype=dtype),
    ),
    "stream_features": Case(
        *(pk.StreamFeatures, 5, BY_STREAM),
        outputs=TASKS,
        feature_block=lambda dtype: pk.ExpertBlock([4, 3], dtype=dtype),
        own=["click"],
    ),
    "stream_features_dict_inputs": Case(
        *(pk.StreamFeatures, COLUMNS, BY_TASK),
        outputs=TASKS,
        feature_block=lambda dtype: Joined(dtype=dtype),
        shared=False,
    ),
    "head": Case(
        *(pk.Head, 5, 2),
        task="buy",
        units=2,
        activation="tanh",
        loss="mse",
        metrics=["mae", "mse"],
        extra_metrics=["mape"],
        tower=[4],
        loss_weight=0.5,
        missing_label=-1,
        reduction="label_root",
    ),
    "binary_head": Case(
        *(pk.BinaryHead, 5, 2),
        task="buy",
        tower=[4],
        units=2,
        targets=["in a week", "ever/again"],
        metrics=["accuracy"],
        pos_weight=2.0,
        reduction="by_target",
    ),
    "regression_head": Case(
        *(pk.RegressionHead, 5, 2),
        **{"task": "buy", "units": 2, "activation": "softplus", "loss": "mae", "metrics": []},
        targets=["price", "100%"],
    ),
    "standardized_head": Case(
        *(pk.RegressionHead, 5, 1),
        **{"task": "buy", "tower": 4, "standardize": True, "mean": [3.0], "deviation": [2.0]},
    ),
    "quantile_head": Case(
        *(pk.QuantileHead, 5, 3),
        **{"task": "buy", "quantiles": [0.1, 0.5, 0.9], "tower": 4, "metrics": []},
        **{"standardize": True, "mean": [3.0], "deviation": [2.0]},
    ),
    "count": Case(pk.CountHead, 5, 1, task="buy", tower=[4], metrics=["mse"], standardize=True),
    "multiclass_head": Case(
        *(pk.MulticlassHead, 5, 3),
        task="buy",
        tower=lambda dtype: keras.layers.Dense(4),
        num_classes=3,
        metrics=["accuracy"],
        class_weight=[0.5, 2.0, 1.0],
    ),
    "task_heads": Case(pk.TaskHeads, {"buy": 5, "click": 4}, {"buy": 1, "click": 3}, heads=heads),
    "task_heads_hedged": Case(
        *(pk.TaskHeads, {task: {"own": 5, "shared": 4} for task in TASKS}, PREDICTIONS),
        heads=heads_and_product,
    ),
    "task_heads_product": Case(
        pk.TaskHeads, {"buy": 5, "click": 4}, PREDICTIONS, heads=heads_and_product
    ),
}


# One of each computation. Every backend tests these; only PyTorch tests the others.
SOME = (
    *("cgc_stacked", "ple_dict_inputs"),
    *("hedged_of_branches_with_features", "task_heads_hedged"),
)

every_layer = pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
every_computation = pytest.mark.parametrize("case", fewer(CASES, *SOME))
