"""`num_task_experts` and `num_shared_experts` of a PLEBlock with an entry for each level."""

import json

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, randomize
from tests.layers import reference
from tests.models import chain, cloned, loaded

TASKS = ["click", "buy"]


@st.composite
def counts_by_level(draw):
    """Draw the counts of task experts and shared experts of 1 to 3 levels, without empty gates."""
    shared = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    entries = []
    for count in shared:
        number = st.integers(0 if count else 1, 2)
        entries.append(draw(number | st.fixed_dictionaries(dict.fromkeys(TASKS, number))))
    return entries, shared


def expected_of(ple, x):
    """Return the outputs by the equations. Each level reads the streams of the level before."""
    streams = dict.fromkeys([*TASKS, "shared"], np.float64(x))
    for block in ple:
        experts, gates = reference.parameters(block)
        outputs = reference.cgc(streams, TASKS, experts, gates, block.add_shared_gate)
        streams = {"shared": None, **outputs}
    return {task: streams[task] for task in TASKS}


@hypothesis.given(counts_by_level())
@hypothesis.settings(max_examples=2 * hypothesis.settings().max_examples)
def test_each_level_has_its_own_counts_and_equals_the_equations(counts):
    entries, shared = counts
    ple = pk.PLEBlock(len(shared), TASKS, [3], entries, tuple(shared))
    for level, block in enumerate(ple):
        entry = entries[level]
        expected = entry if isinstance(entry, dict) else dict.fromkeys(TASKS, entry)
        assert block.num_task_experts == expected
        assert block.num_shared_experts == shared[level]
        assert block.add_shared_gate == any(count > 0 for count in shared[level + 1 :])
    x = features(4, 3)
    ple(x)
    randomize(ple)
    assert_same(numpy_of(ple(x)), expected_of(ple, x))


@pytest.mark.parametrize("shared", [0, 2])
def test_a_list_of_equal_entries_is_the_same_block_as_one_number(shared):
    number = pk.PLEBlock(3, TASKS, [3], 2, shared, name="ple")
    entries = pk.PLEBlock(3, TASKS, [3], [2] * 3, [shared] * 3, name="ple")
    assert entries.get_config() == number.get_config()


def test_counts_may_be_integers_of_numpy():
    number = pk.PLEBlock(2, TASKS, [3], 2, [1, 2], name="ple")
    same = pk.PLEBlock(2, TASKS, [3], np.int64(2), [*np.array([1, 2])], name="ple")
    assert json.dumps(same.get_config()) == json.dumps(number.get_config())


@pytest.mark.parametrize("copied", [loaded, cloned])
def test_files_and_clones_keep_the_counts(copied, tmp_path):
    ple = pk.PLEBlock(3, TASKS, [3], [1, {"click": 2, "buy": 1}, 1], [0, 2, 0], name="ple")
    model = chain(ple)
    copy = copied(model, tmp_path)
    ple_copy = copy.get_layer("ple")
    assert [block.expert_names for block in ple_copy] == [block.expert_names for block in ple]
    assert [sorted(block.gate_experts) for block in ple_copy] == [
        ["buy", "click", "shared"],
        ["buy", "click"],
        ["buy", "click"],
    ]
    copy.set_weights(model.get_weights())
    x = features(4, 3)
    assert_same(numpy_of(copy(keras.ops.convert_to_tensor(x))), expected_of(ple, x))
