"""Gate reports: figures of gates and experts, and warnings."""

import json
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.inspection.levels import find_levels
from tests.helpers import features, numpy_of, once
from tests.models import TASKS, functional, tracked_block
from tests.refusals import table

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


def warnings_of(gates, **kwargs):
    found = pk.gate_report(cgc(gates, **kwargs), ONES).warnings
    return [warning for warning in found if "dead units" not in warning]


@once
def test_healthy_gates_have_no_warnings():
    assert warnings_of({"click": [0.6, 0.4], "buy": [0.4, 0.6]}) == []


@once
def test_a_gate_that_is_even_for_every_example_has_a_warning():
    (warning,) = warnings_of({"click": [0.51, 0.49], "buy": [0.4, 0.6]})
    assert "cgc: the gate of click gives every example almost equal weights" in warning
    assert "gate_softmax_temperature" in warning


@once
def test_even_gates_whose_weights_vary_with_the_example_have_no_warning():
    """Near even weights, the entropy is insensitive: it is over 0.99 here."""
    level = cgc()
    for gate in TASKS:
        kernel = 0.1 * np.eye(4)[:, :2]
        level._level.gates[gate].trainable_weights[0].assign(kernel)
    report = pk.gate_report(level, X)
    use = report.levels["cgc"].gates["click"]
    assert use.entropy > 0.99
    assert max(use.spread.values()) > 0.02
    assert not any("equal weights" in warning for warning in report.warnings)
    level._level.gates["click"].trainable_weights[0].assign(0.03 * np.eye(4)[:, :2])
    report = pk.gate_report(level, X)
    assert 0 < max(report.levels["cgc"].gates["click"].spread.values()) < 0.02
    assert sum("equal weights" in warning for warning in report.warnings) == 1


@once
def test_a_gate_that_collapsed_onto_one_expert_has_a_warning():
    (warning,) = warnings_of({"click": [0.97, 0.03], "buy": [0.9, 0.1]})
    assert "cgc: the gate of click has collapsed onto click/expert_0" in warning
    assert "gate_softmax_temperature" in warning


@once
def test_a_gate_with_one_expert_per_example_has_a_warning():
    level = cgc()
    level._level.gates["click"].trainable_weights[0].assign(1000 * np.eye(4)[:, :2])
    (warning,) = [w for w in pk.gate_report(level, X).warnings if "collapsed" in w]
    assert "collapsed onto one expert per example" in warning


@once
def test_a_shared_expert_that_only_one_task_uses_has_a_warning():
    (warning,) = warnings_of({"click": [0.4, 0.6], "buy": [0.99, 0.01]}, num_task_experts=1)[1:]
    assert "cgc: shared/expert_0 is used almost only by click, with 98 %" in warning
    assert "gate_dropout" in warning


@once
def test_uniform_weights_over_many_experts_have_no_warnings():
    block = pk.MMoEBlock(TASKS, [3], 64, gate_softmax_temperature=1e6, name="mmoe")
    block(X)
    assert not any("unused" in warning for warning in pk.gate_report(block, X).warnings)


@once
def test_examples_with_nan_are_left_out_and_have_a_warning():
    x = X.copy()
    x[[3, 7]] = np.nan
    level = cgc()
    report = pk.gate_report(level, x)
    use = report.levels["cgc"].gates["click"]
    expected = pk.gate_report(level, np.delete(X, [3, 7], axis=0)).levels["cgc"].gates["click"]
    assert use.mean == pytest.approx(expected.mean, rel=1e-6)
    assert use.not_finite == 2
    assert sum("non-finite weights for 2 examples" in warning for warning in report.warnings) == 2
    json.dumps(pk.gate_report(level, np.full_like(X, np.nan)).to_dict(), allow_nan=False)


def test_padded_positions_are_not_counted():
    mask = np.arange(6) < np.array([[6], [2], [1]])
    x = features(3, 6, 4) * mask[..., None]
    inputs = keras.Input((6, 4))
    level = pk.CGCBlock(TASKS, [8], num_task_experts=2, add_shared_gate=False, name="cgc")
    model = keras.Model(inputs, level(keras.layers.Masking()(inputs)))
    report = pk.gate_report(model, x)
    weights = numpy_of(level.gate_weights(x))["click"][mask]
    use = report.levels["cgc"].gates["click"]
    np.testing.assert_allclose(list(use.mean.values()), weights.mean(axis=0), rtol=1e-5)
    assert report.examples == 3
    outputs = numpy_of(level.expert_outputs(x))["click/expert_0"][mask]
    dead = ((outputs == 0).mean(axis=0) >= 0.99).mean()
    assert report.levels["cgc"].experts["click/expert_0"].dead_units == dead


@once
def test_levels_may_have_different_numbers_of_positions():
    inputs = keras.Input((4,))
    low = pk.CGCBlock(TASKS, keras.layers.Dense(4), add_shared_gate=False, name="low")
    top = pk.CGCBlock(TASKS, [16], add_shared_gate=False, name="top")
    repeated = keras.layers.RepeatVector(3)(low(inputs)["click"])
    model = keras.Model(inputs, top(repeated))
    use = pk.gate_report(model, X).levels["top"].experts["click/expert_0"]
    outputs = numpy_of(top.expert_outputs(low(X)["click"]))["click/expert_0"]
    assert use.dead_units == ((outputs == 0).mean(axis=0) >= 0.99).mean() < 1


@once
def test_only_reports_take_batches_of_sequences_of_different_lengths():
    level = pk.CGCBlock(TASKS, [3], name="cgc")
    level(features(2, 5, 4))
    batches = [features(2, 5, 4), features(3, 7, 4)]
    assert pk.gate_report(level, iter(batches)).examples == 5
    with pytest.raises(ValueError, match=r"differ only in their number of examples"):
        pk.gate_weights(level, iter(batches))


@once
def test_an_expert_that_no_gate_uses_has_a_warning():
    (warning,) = warnings_of(
        {"click": [0.01, 0.5, 0.49], "buy": [0.2, 0.3, 0.5]}, num_task_experts=2
    )
    assert "cgc: click/expert_0 is almost unused" in warning


@once
def test_a_gate_over_one_expert_has_no_warning():
    assert warnings_of({}, num_task_experts=0) == []
    report = pk.gate_report(cgc(num_task_experts=0), ONES)
    assert report.levels["cgc"].gates["click"].entropy == 0
    assert "largest weight" not in str(report)


SET = {
    "gate_softmax_temperature": 0.5,
    "gate_dropout": 0.2,
    "expert_balance_regularizer": 0.02,
}
ADVICE = {
    "collapsed": (
        {"click": [0.97, 0.03], "buy": [0.6, 0.4]},
        "a higher gate_softmax_temperature, gate_dropout=0.1 or expert_balance_regularizer=0.01.",
        "a higher gate_softmax_temperature than 0.5, a higher gate_dropout than 0.2 or a higher "
        "expert_balance_regularizer than 0.02.",
    ),
    "even": (
        {"click": [0.5, 0.5], "buy": [0.6, 0.4]},
        "more training, a lower gate_softmax_temperature or a gate_block.",
        "more training, a lower gate_softmax_temperature than 0.5, a gate_block or a lower "
        "expert_balance_regularizer than 0.02.",
    ),
    "unused": (
        {"click": [0.01, 0.5, 0.49], "buy": [0.2, 0.3, 0.5]},
        "fewer experts, gate_dropout=0.1 or expert_balance_regularizer=0.01.",
        "fewer experts, a higher gate_dropout than 0.2 or a higher expert_balance_regularizer than "
        "0.02.",
    ),
    "one_task": (
        {"click": [0.4, 0.6], "buy": [0.94, 0.06]},
        "gate_dropout=0.1, or one more task expert for click.",
        "a higher gate_dropout than 0.2, or one more task expert for click.",
    ),
}


@once
@pytest.mark.parametrize(("gates", "by_default", "with_options"), table(ADVICE))
def test_advice_depends_on_the_options_of_the_level(gates, by_default, with_options):
    experts = {"num_task_experts": len(gates["click"]) - 1}
    for options, advice in (({}, by_default), (SET, with_options)):
        found = warnings_of(gates, **experts, **options)
        assert any(warning.endswith(f" Try {advice}") for warning in found)


@once
def test_advice_on_even_gates_depends_on_their_inputs():
    x, context = keras.Input((4,)), keras.Input((2,))
    options = {"gate_block": [3], "gate_softmax_temperature": 1e6, "gate_reads": "context"}
    level = pk.CGCBlock(TASKS, [3], name="cgc", **options)
    model = keras.Model([x, context], level(x, gate_context=context))
    report = pk.gate_report(model, [X, X[:, :2]])
    even = [warning for warning in report.warnings if "equal weights" in warning]
    advice = 'Try more training, a lower gate_softmax_temperature than 1e+06 or gate_reads="both".'
    assert len(even) == 3
    assert all(warning.endswith(advice) for warning in even)
    options = report.to_dict()["levels"]["cgc"]["options"]
    assert options["gate_reads"] == "context"
    assert options["has_gate_block"] is True


@pytest.mark.parametrize("is_by_stream", [False, True])
def test_large_inputs_of_a_level_have_the_first_warning(is_by_stream):
    x = X * np.array([1, 1, 1000, 1], "float32")
    block = pk.CGCBlock(TASKS, [3], name="cgc")
    inputs = {**dict.fromkeys(TASKS, X), "shared": x} if is_by_stream else x
    block(inputs)
    report = pk.gate_report(block, inputs)
    scale = float(np.sqrt((x[:, 2] ** 2).mean()))
    assert report.levels["cgc"].input_scale == pytest.approx(scale, rel=1e-5)
    assert f"cgc: an input is large, with a root mean square of {scale:,.0f}" in report.warnings[0]
    small = pk.gate_report(block, keras.tree.map_structure(lambda a: a / 1000, inputs))
    assert not any("is large" in text for text in small.warnings)


def test_the_input_scale_is_over_all_examples_and_without_nan():
    block = pk.CGCBlock(TASKS, [3], name="cgc")
    block(X)
    x = X.copy()
    x[-1, 0], x[3, 1] = 100, np.nan
    scale = pk.gate_report(block, x, batch_size=39).levels["cgc"].input_scale
    assert scale == pytest.approx(np.sqrt(np.nanmean(x**2, axis=0)).max(), rel=1e-5)


def test_the_input_scale_is_without_masked_positions():
    table = keras.layers.Embedding(3, 4, mask_zero=True)
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, pk.CGCBlock(TASKS, [3], name="cgc")(table(tokens)))
    table.embeddings.assign(np.array([[1000.0] * 4, [3.0] * 4, [4.0] * 4]))
    report = pk.gate_report(model, np.array([[1, 2, 0], [2, 0, 0]]))
    expected = np.sqrt((9 + 16 + 16) / 3)
    assert report.levels["cgc"].input_scale == pytest.approx(expected, rel=1e-5)


@once
def test_only_the_first_level_with_a_large_input_has_a_warning():
    ple = pk.PLEBlock(2, TASKS, keras.layers.Dense(3), name="ple")
    x = np.array([[1e3], [1e5], [70_000]])  # more than float16 holds
    ple(x)
    report = pk.gate_report(ple, x)
    assert all(use.input_scale > 50 for use in report.levels.values())
    assert [text.split(":")[0] for text in report.warnings if "is large" in text] == ["ple/0"]
    half = pk.CGCBlock(TASKS, [3], dtype="mixed_float16", name="half")
    half(x)
    values = pk.gate_report(half, x).to_dict()
    assert values["levels"]["half"]["input_scale"] is None
    json.dumps(values, allow_nan=False)


@once
def test_to_dict_is_unchanged_by_json():
    report = pk.gate_report(cgc(), np.where(np.arange(40)[:, None] < 3, np.nan, X))
    values = report.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["examples"] == 40
    assert values["warnings"] == report.warnings
    use = report.levels["cgc"].gates["click"]
    assert values["levels"]["cgc"]["gates"]["click"]["mean"] == use.mean


@once
def test_the_printed_report_names_all_levels_and_experts_within_100_columns():
    tasks = [f"a_long_task_name_{i}" for i in range(5)]
    ple = pk.PLEBlock(2, tasks, [3], num_task_experts=3, num_shared_experts=2, name="ple")
    ple(X)
    text = str(pk.gate_report(ple, X))
    for level in (0, 1):
        assert f"\nple/{level}\n" in text
    for task in tasks:
        assert f"{task}/expert_2" in text
    assert max(map(len, text.splitlines())) <= 100


@once
def test_tables_and_warnings_write_percentages_alike():
    level = cgc({"click": [0.97, 0.03], "buy": [0.002, 0.998]})
    for weight in level.trainable_weights:
        if "bias" in weight.path:
            weight.assign(np.full(weight.shape, -100.0))
    report = pk.gate_report(level, ONES)
    assert any("for 100 % of the examples" in warning for warning in report.warnings)
    assert any("has 100 % dead units" in warning for warning in report.warnings)
    assert "100 %" in str(report).split("Warnings")[0]
    assert not re.search(r"\d%", str(report))


def test_a_wrong_model_or_input_is_refused():
    with pytest.raises(TypeError, match=r"model must be a Keras model or layer"):
        pk.gate_report(3, X)
    with pytest.raises(ValueError, match=r"x must be valid input of the model"):
        pk.gate_report(functional(tracked_block()), features(7, 5))
