"""One table of checks that every public layer passes."""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, assert_same, features, numpy_of, randomize

# What stands inside these are layers of the user's, each with a policy of its own.
MADE_OF_USER_LAYERS = (
    "sequential",
    "task_heads",
    "task_heads_product",
    "cgc_copied",
    "multiclass_head",
)
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
if keras.backend.backend() != "jax":  # which has no float64 unless told so
    POLICIES.append("float64")


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, the width of its inputs (by key, for a dict) and of its outputs.

    Attributes:
        make: The layer for Keras's own layer arguments.
        inputs: The width of the input, or of each input.
        outputs: The width of the output, or of each output.
        is_head: Whether outputs are at least float32, whatever the policy.
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
    """`function` of a value, or of every value of a dict."""
    if isinstance(value, Mapping):
        return {key: function(item) for key, item in value.items()}
    return function(value)


def plain(value):
    """Everything under one key, so that layers with one output need no case of their own."""
    return value if isinstance(value, Mapping) else {"only": value}


def shapes_of(outputs):
    return by_key(lambda x: tuple(x.shape), outputs)


def dtypes_of(outputs):
    return {keras.backend.standardize_dtype(x.dtype) for x in plain(outputs).values()}


TASKS = ["buy", "click"]

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
        lambda **kw: pk.Gate(
            3, gate_block=[4], track_weights=True, expert_balance_regularizer=0.1, **kw
        ),
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
            expert_balance_regularizer=0.1,
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

every_layer = pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
every_rank = pytest.mark.parametrize("leading", [(2,), (2, 3)], ids=["rank_2", "rank_3"])
every_policy = pytest.mark.parametrize("policy", POLICIES)
some_layers = pytest.mark.parametrize(
    "case",
    [CASES[name] for name in ("cgc_stacked", "ple", "task_heads")],
    ids=["cgc_stacked", "ple", "task_heads"],
)


@every_layer
@pytest.mark.parametrize("is_built", [False, True], ids=["unbuilt", "built"])
def test_the_config_makes_an_equal_layer(case, is_built):
    layer = case.make(name="mine", trainable=False, dtype="mixed_bfloat16")
    if is_built:
        layer.build(case.shape(None))
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert type(copy) is type(layer)
    assert copy.get_config() == config == layer.get_config()
    assert (copy.name, copy.trainable, copy.dtype_policy.name) == ("mine", False, "mixed_bfloat16")


@every_layer
def test_the_config_holds_every_constructor_argument(case):
    layer = case.make()
    arguments = set(inspect.signature(type(layer).__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(layer.get_config())


GIVEN = {
    "expert": (
        pk.ExpertBlock,
        {
            "units": [4, 3],
            "activation": "gelu",
            "dropout": 0.25,
            "normalization": "batch",
            "use_bias": False,
        },
    ),
    "gate": (
        pk.Gate,
        {
            "num_experts": 3,
            "softmax_temperature": 0.5,
            "track_weights": True,
            "gate_dropout": 0.25,
            "expert_balance_regularizer": 0.5,
        },
    ),
    "cgc": (
        pk.CGCBlock,
        {
            "outputs": ["b", "a"],
            "expert_block": 3,
            "num_task_experts": {"b": 2, "a": 1},
            "num_shared_experts": 3,
            "add_shared_gate": False,
            "gate_softmax_temperature": 0.5,
            "enable_gate_weights_metrics": True,
            "gate_dropout": 0.25,
            "expert_balance_regularizer": 0.5,
        },
    ),
    "shared_bottom": (pk.SharedBottomBlock, {"outputs": ["b", "a"], "bottom_block": 3}),
    "head": (
        pk.Head,
        {
            "task": "a",
            "units": 2,
            "activation": "tanh",
            "loss": "mse",
            "metrics": ["mae", "mse"],
            "loss_weight": 0.5,
        },
    ),
    "binary_head": (pk.BinaryHead, {"task": "a", "metrics": ["accuracy"], "loss_weight": 0.5}),
    "regression_head": (pk.RegressionHead, {"task": "a", "units": 2, "activation": "softplus"}),
    "multiclass_head": (pk.MulticlassHead, {"task": "a", "num_classes": 5, "metrics": []}),
}


@pytest.mark.parametrize(("cls", "arguments"), list(GIVEN.values()), ids=list(GIVEN))
def test_the_config_holds_the_values_given(cls, arguments):
    config = cls(**arguments).get_config()
    templates = ("expert_block", "bottom_block")
    expected = {key: value for key, value in arguments.items() if key not in templates}
    assert {key: config[key] for key in expected} == expected


def through_json(layer):
    return json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))


@every_layer
@pytest.mark.parametrize("is_built", [False, True], ids=["unbuilt", "built"])
def test_the_serialized_form_survives_json(case, is_built):
    layer = case.make()
    if is_built:
        layer.build(case.shape(None))
    serialized = through_json(layer)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert through_json(copy) == serialized
    assert copy.built == is_built
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]


@every_layer
@pytest.mark.parametrize("leading", [(None,), (2,), (None, 3), (2, 3)], ids=str)
def test_output_shapes_are_known_before_and_after_build(case, leading):
    layer = case.make()
    expected = case.output_shape(*leading)
    assert layer.compute_output_shape(case.shape(*leading)) == expected
    assert not layer.built
    layer.build(case.shape(*leading))
    assert layer.built
    assert layer.compute_output_shape(case.shape(*leading)) == expected


def build(case, layer):
    layer.build(case.shape(None))


def call_eagerly(case, layer):
    layer(case.arrays(2))


def call_symbolically(case, layer):
    layer(case.symbols())


@every_layer
@pytest.mark.parametrize("how", [build, call_eagerly, call_symbolically])
def test_every_layer_inside_a_built_layer_is_built(case, how):
    layer = case.make()
    how(case, layer)
    assert [x.name for x in layer._flatten_layers() if not x.built] == []
    assert layer.trainable_weights


@every_layer
@every_rank
@every_policy
def test_eager_and_symbolic_calls_agree_under_every_global_policy(case, leading, policy):
    keras.config.set_dtype_policy(policy)
    layer = case.make()
    check_calls(case, layer, leading, policy)
    is_half = policy.startswith("mixed")
    assert {w.dtype for w in layer.trainable_weights} == {"float32" if is_half else policy}


@pytest.mark.parametrize(
    "case",
    # What stands inside these is layers of the user's, each with a policy of its own.
    [
        pytest.param(CASES[name], id=name)
        for name in CASES
        if name not in ("sequential", "task_heads", "task_heads_product")
    ],
)
@every_rank
@every_policy
def test_eager_and_symbolic_calls_agree_under_a_layer_s_own_policy(case, leading, policy):
    check_calls(case, case.make(dtype=policy), leading, policy)


@pytest.mark.parametrize(
    "case",
    [pytest.param(CASES[name], id=name) for name in CASES if name not in MADE_OF_USER_LAYERS],
)
def test_a_layer_s_own_policy_reaches_every_layer_inside(case):
    layer = case.make(dtype="mixed_bfloat16")
    layer.build(case.shape(None))
    policies = {
        x.name: x.dtype_policy.name
        for x in layer._flatten_layers()
        if not (case.is_head and x.name == "projection")
    }
    assert policies == dict.fromkeys(policies, "mixed_bfloat16")


def check_calls(case, layer, leading, policy):
    dtype = "float64" if policy == "float64" else "float32"
    symbolic = layer(case.symbols(*leading[1:], dtype=dtype))
    eager = layer(case.arrays(*leading, dtype=dtype))
    assert shapes_of(symbolic) == case.output_shape(None, *leading[1:])
    assert shapes_of(eager) == case.output_shape(*leading)
    expected = dtype if case.is_head else policy.removeprefix("mixed_")
    assert dtypes_of(symbolic) == dtypes_of(eager) == {expected}


@every_layer
def test_any_batch_size_passes_through_one_model(case):
    model = case.model(case.make())
    together = plain(numpy_of(model(case.arrays(4))))
    for size in (1, 3):
        x = by_key(lambda array, size=size: array[:size], case.arrays(4))
        part = {key: value[:size] for key, value in together.items()}
        assert_same(plain(numpy_of(model(x))), part)


@every_layer
def test_examples_and_positions_do_not_see_each_other(case):
    layer, flat_layer = case.make(), case.make()
    x = case.arrays(2, 3)
    flat_x = by_key(lambda array: array.reshape(6, -1), x)
    for each, inputs in ((layer, x), (flat_layer, flat_x)):
        each(inputs)
        randomize(each)
    expected = plain(numpy_of(flat_layer(flat_x)))
    expected = {key: value.reshape(2, 3, -1) for key, value in expected.items()}
    assert_same(plain(numpy_of(layer(x))), expected)


@every_layer
def test_a_mask_passes_to_every_output(case):
    mask = np.array([[True, True, False]])
    x = by_key(lambda array: array * mask[..., None], case.arrays(1, 3))
    masked = by_key(lambda array: keras.layers.Masking()(array), x)
    for output in plain(case.make()(masked)).values():
        np.testing.assert_array_equal(numpy_of(output._keras_mask), mask)


def compiled(model, jit_compile=QUICK_JIT):
    loss = by_key(lambda _: "mse", model.output) if isinstance(model.output, dict) else "mse"
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit_compile)
    return model


@every_layer
def test_a_training_step_changes_every_trainable_weight(case):
    model = compiled(case.model(case.make()))
    randomize(model)
    before = [numpy_of(w) for w in model.trainable_weights]
    y = by_key(np.zeros, case.output_shape(32))
    assert np.isfinite(model.train_on_batch(case.arrays(32), y)).all()
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = numpy_of(weight)
        assert np.isfinite(new).all(), weight.path
        assert not np.array_equal(new, old), weight.path


@every_layer
@pytest.mark.parametrize("when", ["as_argument", "later", "from_a_file"])
def test_a_frozen_layer_has_nothing_to_train(case, when, tmp_path):
    layer = case.make(trainable=when != "as_argument")
    model = case.model(layer)
    if when != "as_argument":
        layer.trainable = False
    if when == "from_a_file":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.trainable_weights == []
    assert len(model.weights) == len(layer.weights) > 0


@every_layer
def test_predictions_are_the_same_after_saving_and_loading(case, tmp_path):
    model = case.model(case.make())
    randomize(model)
    x = case.arrays(8)
    model(x, training=True)  # moves the statistics of a batch normalization
    expected = plain(numpy_of(model(x)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    actual = plain(numpy_of(loaded(x)))
    assert set(actual) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value)

    fresh = case.model(case.make())
    model.save_weights(tmp_path / "model.weights.h5")
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_same(plain(numpy_of(fresh(x))), expected, atol=0)


@every_layer
def test_summary_names_the_layer(case, capsys):
    model = case.model(case.make(name="the_layer"))
    lines = []
    model.summary(expand_nested=True, print_fn=lines.append, line_length=120)
    assert "the_layer" in "\n".join(lines)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch has no XLA")
@some_layers
def test_compiled_and_plain_steps_agree(case):
    layers = [case.make(), case.make()]
    models = [compiled(case.model(layer), jit) for layer, jit in zip(layers, (False, True))]
    for model in models:
        randomize(model)
    x, y = case.arrays(8), by_key(np.zeros, case.output_shape(8))
    losses = [float(np.sum(model.train_on_batch(x, y))) for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    predictions = [plain(model.predict_on_batch(x)) for model in models]
    assert_same(predictions[0], predictions[1])
