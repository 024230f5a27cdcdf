"""`expert_block` as a dict keyed by stream: experts of different sizes."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import assert_same, every_backend, features, numpy_of, once, randomize
from tests.layers import reference
from tests.models import TASKS, chain, click_and_buy_heads, loaded
from tests.refusals import arguments_refused, at

pytestmark = once

SIZES = {"shared": [6, 4], "click": [3, 4], "buy": [5, 2, 4]}
PAIR = {"shared": [6, 4], "click": [3, 4], "buy": [3, 4]}  # two streams have one template


def built_ple(expert_block, **kwargs):
    ple = pk.PLEBlock(2, TASKS, expert_block, {"click": 2, "buy": 1}, [2, 1], name="ple", **kwargs)
    ple.build((None, 3))
    randomize(ple)
    return ple


@every_backend
@pytest.mark.parametrize(
    ("expert_block", "stack_experts", "shape"),
    [(SIZES, True, (5, 3)), (PAIR, False, (5, 3)), ([PAIR, [4]], True, (2, 4, 3))],
)
def test_the_outputs_are_those_of_numpy(expert_block, stack_experts, shape):
    ple = built_ple(expert_block, stack_experts=stack_experts)
    x, inputs = features(*shape), keras.Input(shape[1:])
    outputs = keras.Model(inputs, ple(inputs)).predict_on_batch(x)
    assert_same(outputs, reference.ple(ple, x)[0])


def test_experts_may_be_of_any_layer_and_keep_their_options(tmp_path):
    normalized = pk.ExpertBlock([4], normalization="batch", dropout=0.5, trainable=False)
    by_stream = {"click": normalized, "buy": keras.layers.Dense(4, "tanh"), "shared": [4]}
    block = pk.CGCBlock(TASKS, by_stream, name="cgc")
    model = chain(block, click_and_buy_heads())
    frozen = [w.path for w in model.weights if not w.trainable and "moving" not in w.path]
    names = "dense_0/kernel", "dense_0/bias", "normalization_0/gamma", "normalization_0/beta"
    expected = [f"cgc/experts/expert-click-0/{name}" for name in names]
    assert [path for path in frozen if "expert" in path] == expected
    copy = loaded(model, tmp_path)
    assert [w.trainable for w in copy.weights] == [w.trainable for w in model.weights]
    x = features(4, 3)
    assert_same(copy.predict_on_batch(x), model.predict_on_batch(x))
    assert isinstance(block.get_expert("buy/expert_0"), keras.layers.Dense)


def test_no_expert_starts_equal_to_another():
    init = keras.initializers.GlorotUniform
    expert = pk.ExpertBlock([4], kernel_initializer=init(seed=1))
    other = pk.ExpertBlock([4], "tanh", kernel_initializer=init(seed=1))
    ple = pk.PLEBlock(2, TASKS, {"click": expert, "buy": expert, "shared": other})
    ple(features(1, 4))
    values = [numpy_of(w).tobytes() for w in ple.weights if "dense_0/kernel" in w.path]
    assert len({*values}) == len(values) == 6


def test_levels_without_shared_experts_ignore_the_dict_of_all_levels():
    ple = pk.PLEBlock(2, TASKS, SIZES, 1, [1, 0])
    assert list(ple[1].get_config()["expert_block"]) == TASKS


def test_a_task_without_experts_keeps_its_template(tmp_path):
    block = pk.CGCBlock(TASKS, SIZES, {"click": 0, "buy": 1}, name="cgc")
    model = chain(block, click_and_buy_heads())
    assert list(block.get_config()["expert_block"]) == [*TASKS, "shared"]
    x = features(4, 3)
    assert_same(numpy_of(loaded(model, tmp_path)(x)), numpy_of(model(x)))


A_LEVEL = "2 entries, one for each level"
BY_STREAM = [
    (
        {"shared": [4], "click": [4]},
        ValueError,
        r"must have exactly the keys \['click', 'buy', 'shared'\]; missing: \['buy'\]",
    ),
    ({**SIZES, "buy": "4"}, TypeError, r"\['buy'\] must be an int.*expert_block\['buy'\]='4'$"),
]
BY_LEVEL = [([SIZES] * 3, ValueError, A_LEVEL), ((pk.ExpertBlock(3),), ValueError, A_LEVEL)]
ONE_LEVEL, LEVELS = {"outputs": TASKS}, {"outputs": TASKS, "num_layers": 2}
test_other_streams_and_levels_are_refused = arguments_refused(
    {pk.CGCBlock: ONE_LEVEL, pk.PLEBlock: LEVELS},
    [
        (at("expert_block", pk.CGCBlock, pk.PLEBlock), BY_STREAM),
        (at("expert_block", pk.PLEBlock), BY_LEVEL),
    ],
)
test_the_size_of_missing_shared_experts_is_refused = arguments_refused(
    {pk.PLEBlock: {**LEVELS, "num_shared_experts": 0}},
    [(at("expert_block", pk.PLEBlock), [(SIZES, ValueError, r"unknown: \['shared'\]")])],
)
