"""`num_task_experts` and `num_shared_experts` of a PLEBlock with an entry for each level."""

import json

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of
from tests.layers import reference
from tests.models import chain, cloned, loaded

TASKS = ["click", "buy"]


def test_counts_of_numpy_and_lists_of_equal_counts_are_the_same_block():
    number = pk.PLEBlock(2, TASKS, [3], 2, [1, 2], name="ple")
    same = pk.PLEBlock(2, TASKS, [3], [np.int64(2)] * 2, [*np.array([1, 2])], name="ple")
    assert json.dumps(same.get_config()) == json.dumps(number.get_config())


@pytest.mark.parametrize("copied", [loaded, cloned])
def test_files_and_clones_keep_the_counts(copied, tmp_path):
    ple = pk.PLEBlock(3, TASKS, [3], [1, {"click": 2, "buy": 1}, 1], [0, 2, 0], name="ple")
    model = chain(ple)
    copy = copied(model, tmp_path)
    ple_copy = copy.get_layer("ple")
    assert [block.expert_names for block in ple_copy] == [block.expert_names for block in ple]
    assert ["shared" in block.gate_experts for block in ple_copy] == [True, False, False]
    copy.set_weights(model.get_weights())
    x = features(4, 3)
    assert_same(numpy_of(copy(keras.ops.convert_to_tensor(x))), reference.ple(ple, x)[0])
