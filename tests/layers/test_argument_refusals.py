"""Arguments that layers refuse. Each row is a value, the error and a part of its message."""

import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once
from tests.models import chain, loaded
from tests.pairs import pairs
from tests.refusals import BAD_NAMES, INF, NAN, RULE, Unlike, check_refused

pytestmark = once

TASKS = ["a", "b"]
REQUIRED = {
    pk.ExpertBlock: {"units": 3},
    pk.Gate: {"num_experts": 2},
    pk.CGCBlock: {"outputs": TASKS, "expert_block": 3},
    pk.PLEBlock: {"num_layers": 2, "outputs": TASKS, "expert_block": 3},
    pk.MMoEBlock: {"outputs": TASKS, "expert_block": 3, "num_experts": 2},
    pk.SharedBottomBlock: {"outputs": TASKS, "bottom_block": 3},
    pk.SequentialBlock: {},
    pk.HedgedBlock: {"outputs": TASKS},
    pk.StreamFeatures: {"outputs": TASKS, "feature_block": keras.layers.Dense(3)},
    pk.SparseEmbedding: {"input_dim": 9, "output_dim": 3},
    pk.BinaryHead: {"task": "a"},
    pk.Head: {"task": "a"},
    pk.MulticlassHead: {"task": "a"},
}
LEVELS = (pk.CGCBlock, pk.PLEBlock, pk.MMoEBlock)
BLOCKS = (*LEVELS, pk.SharedBottomBlock)


def at(argument, *classes):
    return [(cls, argument) for cls in classes]


# Templates.


@keras.saving.register_keras_serializable("test_argument_refusals")
class IncompleteConfig(pk.ExpertBlock):
    """An expert with an argument that its inherited config lacks."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)


@keras.saving.register_keras_serializable("test_argument_refusals")
class Opaque(keras.layers.Layer):
    """A layer without get_config and with an argument that Keras can't serialize."""

    def __init__(self, thing, **kwargs):
        super().__init__(**kwargs)


@keras.saving.register_keras_serializable("test_argument_refusals")
class WithoutKwargs(keras.layers.Layer):
    """A layer that has get_config, but can't be given a name."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def get_config(self):
        return {**super().get_config(), "width": self.width}


NO_NAME = (
    r"must be .* an __init__ that passes \*\*kwargs on, .*"
    r"The copy failed: .*WithoutKwargs\.__init__\(\) got an unexpected keyword argument '\w+'\. R"
)
NO_CONFIG = r"takes \['scale'\], which its config lacks. Define a get_config"
NO_LAYER = "Keras layer"
UNITS = [
    ([], ValueError, "must not be empty"),
    (0, ValueError, "must be at least 1"),
    ([4, -1], ValueError, r"\[1\] must be at least 1.*\[1\]=-1"),
    ([4.0], TypeError, r"\[0\] must be an integer.*\[0\]=4\.0"),
    ([True], TypeError, r"\[0\] must be an integer.*\[0\]=True"),
    *((value, TypeError, "must be an int") for value in (4.0, True, "4", {4}, Unlike())),
]
TEMPLATES = [
    (keras.layers.Lambda(lambda x: x), ValueError, "must be copied.*Lambda"),
    (IncompleteConfig(3, scale=2.0), ValueError, NO_CONFIG),
    (keras.Sequential([IncompleteConfig(3)]), ValueError, NO_CONFIG),
    (Opaque(Unlike()), ValueError, "must be .*Define get_config"),
    (WithoutKwargs(3), ValueError, NO_NAME),
    (keras.Sequential([WithoutKwargs(3)]), ValueError, NO_NAME),
    (keras.layers.TimeDistributed(WithoutKwargs(3)), ValueError, NO_NAME),
    *((value, TypeError, NO_LAYER) for value in (keras.layers.Dense, "dense", len)),
]


# Blocks.


def at_least(minimum):
    return [
        (minimum - 1, ValueError, f"must be at least {minimum}"),
        *((value, TypeError, "must be an integer") for value in (True, 2.0, "2", None)),
    ]


ONCE = "must have tasks, each once"
NAMES = "sequence of task names"
HEAD = pk.BinaryHead("a")
OUTPUTS = [
    *((value, ValueError, ONCE) for value in ([], {}, ["a", "b", "a"], [HEAD, pk.BinaryHead("a")])),
    *((value, TypeError, NAMES) for value in ("ab", b"ab", {"a"}, iter("ab"), 2, None, HEAD)),
    ({"b": HEAD}, ValueError, "each task to the head of the task .*'b' has <BinaryHead"),
    ({"a": 3}, ValueError, "each task to the head of the task .* 'a' has 3"),
]
POSITIVE = [
    *((value, ValueError, "must be finite and above 0") for value in (0, -0.5, NAN, INF)),
    *((value, TypeError, "must be a number") for value in ("1", True, None)),
]
FRACTION = [
    (1.0, ValueError, "must be finite and at least 0 and below 1"),
    (-0.1, ValueError, "must be finite and at least 0"),
    (NAN, ValueError, "must be finite"),
    *((value, TypeError, "must be a number") for value in ("0.1", None)),
]
COEFFICIENT = [(-1, ValueError, "at least 0"), ("l2", TypeError, "must be a number")]
READS = [("all", ValueError, r"must be one of \('stream', 'context', 'both'\)")]
BOOLS = [(value, TypeError, "must be True or False") for value in ("yes", 1, None)]
GATE_KWARGS = [
    ({"top_q": 1}, ValueError, r"unknown: \['top_q'\]"),
    ({"name": "gate"}, ValueError, r"keys among \['dropout', .*unknown: \['name'\]"),
    (["dropout"], TypeError, "must be a dict "),
]
COUNTS_BY_TASK = [
    ({"a": 1}, ValueError, r"missing: \['b'\], unknown: \[\].*\{'a'\}"),
    ({"a": 1, "b": 1, "c": 1}, ValueError, r"missing: \[\], unknown: \['c'\]"),
    ({"a": [1, 1], "b": 1}, TypeError, r"Received: num_task_experts\['a'\]=\[1, 1\]$"),
]
A_LEVEL = "2 entries, one for each level"
NO_LIST = [([1], TypeError, r"must be an integer\. .*=\[1\]$")]
TASK_COUNTS_BY_LEVEL = [
    *(([1] * count, ValueError, A_LEVEL) for count in (0, 1, 3)),
    ([{"a": 1}, 1], ValueError, r"^num_task_experts must have.*missing: \['b'\]"),
]
SHARED_COUNTS_BY_LEVEL = [
    ((1, 2, 3), ValueError, A_LEVEL),
    ([1, {"a": 1}], TypeError, r"must be an integer\. .*num_shared_experts=\{'a': 1\}$"),
]
SIZES = {"shared": [6, 4], "a": [3, 4], "b": [5, 2, 4]}
BY_STREAM = [
    (
        {"shared": [4], "a": [4]},
        ValueError,
        r"must have exactly the keys \['a', 'b', 'shared'\]; missing: \['b'\]",
    ),
    ({**SIZES, "b": "4"}, TypeError, r"\['b'\] must be an int.*Received: expert_block\['b'\]='4'$"),
]
BY_LEVEL = [([SIZES] * 3, ValueError, A_LEVEL), ((pk.ExpertBlock(3),), ValueError, A_LEVEL)]


def bottom(name="x"):
    return pk.SharedBottomBlock(TASKS, 3, name=name)


A_DICT = "branches must be a dict of Keras layers"
BRANCHES = [
    ({"a": bottom()}, ValueError, "at least two blocks"),
    ({"a": bottom(), "a/b": bottom()}, ValueError, "key must be at most 128 ASCII letters"),
    ({"a": bottom(), "b": bottom()}, ValueError, r"different names, not \['x', 'x'\]"),
    *((value, TypeError, A_DICT) for value in ([1, 2], {"a": bottom(), "b": 3})),
]
OWN = [
    (value, ValueError, r"must be None or a list of tasks among \['a', 'b'\]")
    for value in (["a", "no"], ["a", "shared"], "a", {"a": 1})
]
LAYERS = [
    ([], ValueError, "must not be empty or"),
    ([keras.layers.Dense(3), len], TypeError, "must be a sequence of Keras layers"),
    ([bottom(), bottom()], ValueError, r"have equal names\. .*=\['x', 'x'\]$"),
]
NORMALIZATIONS = [
    (value, ValueError, r"one of \(None, 'batch', 'layer'\)")
    for value in ("instance", keras.layers.LayerNormalization(), True)
]
ACTIVATIONS = [
    *((value, ValueError, "must be known") for value in ("rellu", 3)),
    (keras.layers.PReLU(), TypeError, "must be a name, or a function"),
    ("glu", ValueError, "keeps the width"),
]
REFUSED = [
    (
        [
            (pk.ExpertBlock, "units"),
            *at("expert_block", *LEVELS, pk.HedgedBlock),
            *at("gate_block", pk.Gate, *LEVELS),
            (pk.BinaryHead, "tower"),
            (pk.SharedBottomBlock, "bottom_block"),
        ],
        UNITS,
    ),
    (
        [
            *at("expert_block", *LEVELS),
            *at("gate_block", pk.Gate, pk.CGCBlock),
            *((pk.SharedBottomBlock, "bottom_block"), (pk.BinaryHead, "tower")),
            (pk.StreamFeatures, "feature_block"),
        ],
        TEMPLATES,
    ),
    (at("gate_block", *LEVELS), [({"units": 3}, TypeError, NO_LAYER)]),
    (at("outputs", *BLOCKS, pk.StreamFeatures), OUTPUTS),
    (at("num_layers", pk.PLEBlock), at_least(1)),
    (at("units", pk.Head), at_least(1)),
    (at("num_classes", pk.MulticlassHead), at_least(2)),
    (at("num_experts", pk.Gate, pk.MMoEBlock), at_least(1)),
    (at("num_task_experts", pk.CGCBlock, pk.PLEBlock), [*at_least(0), *COUNTS_BY_TASK]),
    (at("num_shared_experts", pk.CGCBlock, pk.PLEBlock), at_least(0)),
    (at("num_task_experts", pk.CGCBlock), NO_LIST),
    (at("num_shared_experts", pk.CGCBlock), NO_LIST),
    (at("num_task_experts", pk.PLEBlock), TASK_COUNTS_BY_LEVEL),
    (at("num_shared_experts", pk.PLEBlock), SHARED_COUNTS_BY_LEVEL),
    (at("expert_block", pk.CGCBlock, pk.PLEBlock), BY_STREAM),
    (at("expert_block", pk.PLEBlock), BY_LEVEL),
    (at("softmax_temperature", pk.Gate), POSITIVE),
    (at("gate_softmax_temperature", *LEVELS), POSITIVE),
    (at("dropout", pk.ExpertBlock, pk.Gate), FRACTION),
    (at("balance_regularizer", pk.Gate), COEFFICIENT),
    (at("gate_kwargs", *LEVELS), GATE_KWARGS),
    (at("gate_reads", *LEVELS), READS),
    *(
        (at(argument, *LEVELS), BOOLS)
        for argument in ("enable_gate_weights_metrics", "isolate_task_experts", "stack_experts")
    ),
    (at("add_shared_gate", pk.CGCBlock), BOOLS),
    (at("track_weights", pk.Gate), BOOLS),
    (at("use_bias", pk.ExpertBlock), BOOLS),
    (at("shared", pk.StreamFeatures), BOOLS),
    (at("normalization", pk.ExpertBlock), NORMALIZATIONS),
    (at("activation", pk.ExpertBlock), ACTIVATIONS),
    (at("layers", pk.SequentialBlock), LAYERS),
    (at("branches", pk.HedgedBlock), BRANCHES),
    (at("own", pk.StreamFeatures), OWN),
    *((at(size, pk.SparseEmbedding), at_least(1)) for size in ("input_dim", "output_dim")),
]


def cases():
    for places, rows in REFUSED:
        places = {f"{cls.__name__}-{argument}": (cls, argument) for cls, argument in places}
        yield from pairs(places, {str(i): row for i, row in enumerate(rows)})


@pytest.mark.parametrize(("value", "error", "message"), UNITS[:2])
def test_units_that_are_false_are_no_missing_tower(value, error, message):
    check_refused(lambda: pk.BinaryHead("a", tower=value), error, f"tower.*{message}")


def test_an_array_has_the_units_of_a_tower():
    head = pk.BinaryHead("a", tower=np.array([6, 4]))
    assert pk.BinaryHead.from_config(head.get_config())._tower_template.layer.units == (6, 4)


@pytest.mark.parametrize(("cls", "argument", "value", "error", "message"), cases())
def test_a_bad_argument_is_refused(cls, argument, value, error, message):
    shown = ""
    if isinstance(value, str | int | float | None) and "Received" not in message:
        shown = f"={re.escape(repr(value))}$"
    check_refused(
        lambda: cls(**{**REQUIRED[cls], argument: value}),
        error,
        rf"^(?=.*{message})(?=.*{argument}).*Received: {argument}.*{shown}",
    )


@pytest.mark.parametrize(
    ("name", "error", "received", "cls"), pairs(BAD_NAMES, {cls.__name__: cls for cls in BLOCKS})
)
def test_every_block_refuses_invalid_task_names(cls, name, error, received):
    shown = received.removeprefix("=")
    message = rf"{RULE}; invalid: {shown}\. Received: outputs=\['fine', {shown}\]$"
    check_refused(lambda: cls(**{**REQUIRED[cls], "outputs": ["fine", name]}), error, message)


NONE_OF_A, NONE_OF_B = (
    rf"every gate must have at least one expert, but \['{task}'.* have none.*num_task_experts="
    for task in TASKS
)
NO_SHARED = r"keys \['a', 'b'\]; missing: \[\], unknown: \['shared'\]"
TWO = {"a": bottom("a"), "b": bottom("b")}
TOGETHER = [
    (pk.CGCBlock, {"num_task_experts": 0, "num_shared_experts": 0}, NONE_OF_A),
    (pk.PLEBlock, {"num_task_experts": {"a": 1, "b": 0}, "num_shared_experts": 0}, NONE_OF_B),
    (pk.PLEBlock, {"num_task_experts": [0, 1], "num_shared_experts": [0, 1]}, NONE_OF_A),
    (pk.PLEBlock, {"expert_block": SIZES, "num_shared_experts": 0}, NO_SHARED),
    (pk.HedgedBlock, {}, "Exactly one of expert_block and branches"),
    (pk.HedgedBlock, {"expert_block": 3, "branches": {}}, "Exactly one of"),
    (pk.HedgedBlock, {"expert_block": 3, "features": {}}, "features must have exactly the keys"),
    (pk.HedgedBlock, {"branches": TWO, "features": {}}, "features must have exactly"),
    (pk.StreamFeatures, {"feature_block": {}, "own": []}, "own must be None"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), TOGETHER)
def test_arguments_that_do_not_fit_together_are_refused(cls, arguments, message):
    check_refused(lambda: cls(**{**REQUIRED[cls], **arguments}), ValueError, message)


def test_models_with_the_longest_names_are_saved(tmp_path):
    """A character of the block's name has three bytes."""
    task, name = "a" * 128, "\u6f22" * 255
    heads = pk.TaskHeads([pk.BinaryHead(task)])
    model = chain(pk.CGCBlock(heads, [3], add_shared_gate=False, name=name), heads)
    twin = loaded(model, tmp_path)
    assert twin.get_layer(name).task_names == [task]
    assert_same(numpy_of(twin(features(2, 3))), numpy_of(model(features(2, 3))))
