"""Gate reports: mean weights and entropy of gates, and experts that no gate reads."""

import json

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.layers.levels import find_levels
from tests.helpers import every_backend, features, numpy_of, once
from tests.models import TASKS, functional, tracked_block
from tests.refusals import table

pytestmark = once

X = features(40, 4)


def cgc(gates=None, **kwargs):
    """A level with constant gate weights, `{gate: weights}`, if the first feature is 1."""
    layer = pk.CGCBlock(TASKS, [3], add_shared_gate=False, name="cgc", **kwargs)
    layer(X)
    for gate, weights in (gates or {}).items():
        kernel = np.zeros((4, len(weights)))
        kernel[0] = np.log(weights)  # the first feature is 1
        layer._level.gates[gate].trainable_weights[0].assign(kernel)
    return layer


ONES = np.concatenate([np.ones((40, 1), "float32"), X[:, 1:]], axis=1)


@every_backend
def test_gate_figures_are_those_of_the_weights_over_the_examples():
    model = functional(tracked_block())
    report = pk.gate_report(model, X, batch_size=16)
    assert report.examples == 40
    for level, gates in pk.gate_weights(model, X).items():
        for gate, weights in gates.items():
            use = report.levels[level].gates[gate]
            experts = find_levels(model)[level].gate_experts[gate]
            assert list(use.mean) == experts
            np.testing.assert_allclose(list(use.mean.values()), weights.mean(axis=0), rtol=1e-5)
            entropy = -(weights * np.log(weights)).sum(axis=-1).mean() / np.log(len(experts))
            assert use.entropy == pytest.approx(entropy, rel=1e-5)


UNREAD = {
    "none": ({"click": [0.9, 0.1], "buy": [0.06, 0.94]}, []),
    "of_a_task": ({"click": [0.04, 0.96], "buy": [0.5, 0.5]}, ["click/expert_0"]),
    "shared": ({"click": [0.96, 0.04], "buy": [0.97, 0.03]}, ["shared/expert_0"]),
    "read_by_one_gate": ({"click": [0.96, 0.04], "buy": [0.9, 0.1]}, []),
}


@pytest.mark.parametrize(("gates", "unread"), table(UNREAD))
def test_an_expert_with_less_than_a_tenth_of_a_uniform_weight_in_each_gate_is_unread(gates, unread):
    report = pk.gate_report(cgc(gates), ONES)
    assert report.levels["cgc"].experts == ["click/expert_0", "buy/expert_0", "shared/expert_0"]
    assert report.levels["cgc"].unread == unread
    assert str(report).endswith(f"\n  read by no gate:  {unread[0]}") if unread else True


def test_figures_are_nan_if_the_weights_of_an_example_are():
    report = pk.gate_report(cgc(), np.where(np.arange(40)[:, None] == 3, np.nan, X))
    assert np.isnan(report.levels["cgc"].gates["click"].entropy)
    assert report.to_dict()["levels"]["cgc"]["gates"]["click"]["entropy"] is None
    assert report.levels["cgc"].unread == []


@every_backend
def test_padded_positions_are_not_counted():
    mask = np.arange(6) < np.array([[6], [2], [1]])
    x = (1 + np.abs(features(3, 6, 4))) * mask[..., None]
    inputs = keras.Input((6, 4))
    level = pk.CGCBlock(TASKS, [8], num_task_experts=2, add_shared_gate=False, name="cgc")
    model = keras.Model(inputs, level(keras.layers.Masking()(inputs)))
    report = pk.gate_report(model, x)
    weights = numpy_of(level.gate_weights(x))["click"][mask]
    use = report.levels["cgc"].gates["click"]
    np.testing.assert_allclose(list(use.mean.values()), weights.mean(axis=0), rtol=1e-5)
    assert report.examples == 3


def test_the_report_is_the_same_as_json_and_text_within_100_columns():
    tasks = [f"a_long_task_name_{i}" for i in range(5)]
    ple = pk.PLEBlock(2, tasks, [3], num_task_experts=3, num_shared_experts=2, name="ple")
    ple(X)
    report = pk.gate_report(ple, X)
    values, text = report.to_dict(), str(report)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["examples"] == 40
    for level in ("ple/0", "ple/1"):
        assert f"\n{level}\n" in text
        for task in tasks:
            assert f"{task}/expert_2" in text
            use = report.levels[level].gates[task]
            assert values["levels"][level]["gates"][task]["mean"] == use.mean
    assert max(map(len, text.splitlines())) <= 100
