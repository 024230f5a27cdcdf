"""Gate reports: figures of gates and experts, and warnings."""

import json
import re

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
            assert list(use.mean) == list(use.spread) == experts
            np.testing.assert_allclose(list(use.mean.values()), weights.mean(axis=0), rtol=1e-5)
            np.testing.assert_allclose(list(use.spread.values()), weights.std(axis=0), rtol=1e-4)
            entropy = -(weights * np.log(weights)).sum(axis=-1).mean() / np.log(len(experts))
            assert use.entropy == pytest.approx(entropy, rel=1e-5)
            assert use.max == pytest.approx(weights.max(axis=-1).mean(), rel=1e-5)
            assert use.over_95 == (weights.max(axis=-1) > 0.95).mean()


def test_expert_figures_are_the_mean_weights_and_the_shares_of_the_tasks():
    level = cgc({"click": [0.2, 0.8], "buy": [0.6, 0.4]})
    use = pk.gate_report(level, ONES).levels["cgc"]
    assert use.experts["click/expert_0"].weight == {"click": pytest.approx(0.2, abs=1e-5)}
    assert use.experts["click/expert_0"].share == {}
    shared = use.experts["shared/expert_0"]
    assert shared.weight == pytest.approx({"click": 0.8, "buy": 0.4}, abs=1e-5)
    assert shared.share == pytest.approx({"click": 2 / 3, "buy": 1 / 3}, abs=1e-5)


@every_backend
@pytest.mark.parametrize("template", ["stacked", "copied"])
def test_dead_units_are_0_for_99_percent_of_the_examples(template):
    expert = [4] if template == "stacked" else keras.layers.Dense(4, "relu")
    level = pk.CGCBlock(TASKS, expert, name="cgc")
    level(X)
    outputs = numpy_of(level.expert_outputs(X))
    report = pk.gate_report(level, X, batch_size=7).levels["cgc"]
    for name, values in outputs.items():
        expected = ((values == 0).mean(axis=0) >= 0.99).mean()
        assert report.experts[name].dead_units == expected, name
    for weight in level.trainable_weights:
        if "bias" in weight.path:
            weight.assign(np.full(weight.shape, -100.0))
    dead = pk.gate_report(level, X)
    assert {use.dead_units for use in dead.levels["cgc"].experts.values()} == {1.0}
    assert sum("dead units" in warning for warning in dead.warnings) == 3
    assert 'activation="swish", normalization="batch"' in dead.warnings[0]


EVEN = {"click": [0.51, 0.49], "buy": [0.4, 0.6]}
WARNINGS = {
    "none": ({"click": [0.6, 0.4], "buy": [0.4, 0.6]}, 1, None),
    "none_of_one_expert": ({}, 0, None),
    "even": (EVEN, 1, r"the gate of click assigns almost equal weights .*gate_softmax_temp"),
    "collapsed": (
        {"click": [0.97, 0.03], "buy": [0.9, 0.1]},
        1,
        "the gate of click has collapsed.*gate_softmax_temperature",
    ),
    "unused": (
        {"click": [0.01, 0.5, 0.49], "buy": [0.2, 0.3, 0.5]},
        2,
        "click/expert_0 is almost unused",
    ),
    "unshared": (
        {"click": [0.4, 0.6], "buy": [0.99, 0.01]},
        1,
        "shared/expert_0 is used almost only by click, with 98%.*dropout",
    ),
}


@pytest.mark.parametrize(("gates", "experts", "message"), table(WARNINGS))
def test_warnings(gates, experts, message):
    found = pk.gate_report(cgc(gates, num_task_experts=experts), ONES).warnings
    found = [warning for warning in found if "dead units" not in warning]
    if message == WARNINGS["unshared"][2]:
        assert "the gate of buy has collapsed" in found.pop(0)
    assert len(found) == (message is not None)
    assert not found or re.match(f"cgc: {message}", found[0], re.DOTALL), found


def test_even_gates_whose_weights_vary_with_the_example_have_no_warning():
    """Near even weights, the entropy is insensitive: it is over 0.99 here."""
    level = cgc()
    for factor, expected in ((0.1, 0), (0.03, 1)):
        for gate in TASKS:
            kernel = (0.1 if gate == "buy" else factor) * np.eye(4)[:, :2]
            level._level.gates[gate].trainable_weights[0].assign(kernel)
        report = pk.gate_report(level, X)
        use = report.levels["cgc"].gates["click"]
        assert use.entropy > 0.99
        assert (0 < max(use.spread.values()) < 0.02) == bool(expected)
        assert sum("equal weights" in warning for warning in report.warnings) == expected


def test_figures_are_nan_if_the_weights_of_an_example_are():
    report = pk.gate_report(cgc(), np.where(np.arange(40)[:, None] == 3, np.nan, X))
    assert np.isnan(report.levels["cgc"].gates["click"].max)
    assert report.to_dict()["levels"]["cgc"]["gates"]["click"]["max"] is None


@every_backend
def test_padded_positions_are_not_counted():
    mask = np.arange(6) < np.array([[6], [2], [1]])
    x = (1 + np.abs(features(3, 6, 4))) * mask[..., None]
    inputs = keras.Input((6, 4))
    level = pk.CGCBlock(TASKS, [8], num_task_experts=2, add_shared_gate=False, name="cgc")
    model = keras.Model(inputs, level(keras.layers.Masking()(inputs)))
    for weight in level.trainable_weights:  # experts are 0 except at padded positions
        if "gate" not in weight.path:
            weight.assign(np.full(weight.shape, 0.1 if "bias" in weight.path else -1.0))
    report = pk.gate_report(model, x)
    weights = numpy_of(level.gate_weights(x))["click"][mask]
    use = report.levels["cgc"].gates["click"]
    np.testing.assert_allclose(list(use.mean.values()), weights.mean(axis=0), rtol=1e-5)
    assert report.examples == 3
    assert report.levels["cgc"].experts["click/expert_0"].dead_units == 1


def test_the_report_is_the_same_as_json_and_text_within_100_columns():
    tasks = [f"a_long_task_name_{i}" for i in range(5)]
    ple = pk.PLEBlock(2, tasks, [3], num_task_experts=3, num_shared_experts=2, name="ple")
    ple(X)
    report = pk.gate_report(ple, X)
    values, text = report.to_dict(), str(report)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["examples"], values["warnings"]) == (40, report.warnings)
    for level in ("ple/0", "ple/1"):
        assert f"\n{level}\n" in text
        for task in tasks:
            assert f"{task}/expert_2" in text
            use = report.levels[level].gates[task]
            assert values["levels"][level]["gates"][task]["mean"] == use.mean
    assert max(map(len, text.splitlines())) <= 100
    assert "largest weight" not in str(pk.gate_report(cgc(num_task_experts=0), ONES))
