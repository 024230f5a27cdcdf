"""Comparison of every block with the NumPy reference, for random tasks, experts and levels."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, randomize
from tests.layers import reference
from tests.models import chain

NAMES = ["click", "click_buy", "a", "B-2", "10th", "z_", "9"]


@st.composite
def levels(draw):
    """Draw the arguments of a PLEBlock and the shape of its inputs."""
    tasks = draw(st.permutations(NAMES))[: draw(st.integers(1, 5))]
    shared = draw(st.integers(0, 3))
    fewest = 0 if shared else 1
    counts = {task: draw(st.integers(fewest, 3)) for task in tasks}
    if draw(st.booleans()):
        counts = dict.fromkeys(tasks, counts[tasks[0]])
    return {
        "outputs": tasks,
        "num_task_experts": counts,
        "num_shared_experts": shared,
        "gate_block": draw(st.sampled_from([None, 3, [4, 2]])),
        "gate_softmax_temperature": draw(st.sampled_from([1.0, 0.3, 4.0])),
        "expert_block": draw(st.sampled_from([4, [5, 3], [3, 4, 2]])),
        "num_layers": draw(st.integers(1, 3)),
        "shape": draw(st.sampled_from([(2, 5), (1, 3), (2, 3, 5), (2, 2, 3, 4)])),
    }


def expected_of(ple, streams):
    for block in ple:
        experts, gates = reference.parameters(block)
        streams = reference.cgc(
            streams,
            block.task_names,
            experts,
            gates,
            block.add_shared_gate,
            block.gate_softmax_temperature,
        )
    return streams


@pytest.fixture(params=["stacked", "copied"])
def make_template(request):
    """Return a class of experts that are stacked, or a subclass that is copied."""

    class Plain(pk.ExpertBlock):
        pass

    return {"stacked": pk.ExpertBlock, "copied": Plain}[request.param]


@hypothesis.given(levels())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_ple_equals_the_equations(make_template, config):
    shape = config.pop("shape")
    ple = pk.PLEBlock(**{**config, "expert_block": make_template(config["expert_block"])})
    x = features(*shape)
    ple(x)
    randomize(ple)
    streams = dict.fromkeys([*config["outputs"], "shared"], np.float64(x))
    assert_same(numpy_of(ple(x)), expected_of(ple, streams))


@hypothesis.given(levels(), st.booleans())
def test_each_stream_is_the_input_of_its_own_experts_and_gate(config, is_one_width):
    config.pop("shape")
    tasks = config["outputs"]
    ple = pk.PLEBlock(**config)
    streams = [*tasks, "shared"] if config["num_shared_experts"] else tasks
    inputs = {
        stream: features(4, 3 if is_one_width else 3 + i, seed=i)
        for i, stream in enumerate(streams)
    }
    ple(inputs)
    randomize(ple)
    expected = expected_of(ple, {stream: np.float64(x) for stream, x in inputs.items()})
    assert_same(numpy_of(ple(inputs)), expected)


@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_predict_equals_the_equations(jit_compile):
    ple = pk.PLEBlock(2, ["a", "b"], [6, 4], num_task_experts=2, num_shared_experts=1)
    model = chain(ple, width=5)
    randomize(model)
    model.compile(jit_compile=jit_compile)
    x = features(9, 5)
    expected = expected_of(ple, dict.fromkeys(["a", "b", "shared"], np.float64(x)))
    assert_same(model.predict(x, batch_size=4, verbose=0), expected)


def test_mmoe_equals_the_equations():
    block = pk.MMoEBlock(["a", "b", "c"], [6, 4], num_experts=3, name="mmoe")
    x = features(7, 5)
    block(x)
    randomize(block)
    assert block.expert_names == ["shared/expert_0", "shared/expert_1", "shared/expert_2"]
    expected = expected_of([block], dict.fromkeys(["a", "b", "c", "shared"], np.float64(x)))
    assert_same(numpy_of(block(x)), expected)


def test_a_single_cgc_block_returns_the_shared_stream():
    block = pk.CGCBlock(["a", "b"], [6, 4], num_task_experts={"a": 2, "b": 0}, num_shared_experts=2)
    x = features(7, 5)
    block(x)
    randomize(block)
    outputs = numpy_of(block(x))
    assert set(outputs) == {"a", "b", "shared"}
    assert_same(outputs, expected_of([block], dict.fromkeys(["a", "b", "shared"], np.float64(x))))


def test_a_shared_bottom_returns_the_output_of_one_network_for_every_task():
    block = pk.SharedBottomBlock(["a", "b"], [6, 4])
    x = features(7, 5)
    block(x)
    randomize(block)
    kernels_and_biases = [np.float64(w.numpy()) for w in block.weights]
    expected = reference.mlp(np.float64(x), zip(kernels_and_biases[::2], kernels_and_biases[1::2]))
    assert_same(numpy_of(block(x)), {"a": expected, "b": expected})


def test_thirty_tasks_and_twelve_experts_have_the_given_order():
    tasks = [f"t{i}" for i in range(30)]
    block = pk.CGCBlock(tasks, 3, num_task_experts={**dict.fromkeys(tasks, 1), "t7": 12})
    assert block.expert_names[6:10] == [
        "t6/expert_0",
        "t7/expert_0",
        "t7/expert_1",
        "t7/expert_2",
    ]
    assert block.gate_experts["t7"] == [*(f"t7/expert_{i}" for i in range(12)), "shared/expert_0"]
    x = features(3, 4)
    block(x)
    randomize(block)
    assert_same(
        numpy_of(block(x)),
        expected_of([block], dict.fromkeys([*tasks, "shared"], np.float64(x))),
    )


def test_the_output_is_the_sum_of_expert_outputs_times_gate_weights():
    block = pk.CGCBlock(["a", "b"], [4], num_task_experts=2, num_shared_experts=2)
    x = features(5, 3)
    outputs = numpy_of(block(x))
    experts = numpy_of(block.expert_outputs(x))
    weights = numpy_of(block.gate_weights(x))
    assert list(experts) == block.expert_names
    for gate, names in block.gate_experts.items():
        np.testing.assert_allclose(weights[gate].sum(axis=-1), 1, rtol=1e-6)
        mixed = sum(weights[gate][:, i : i + 1] * experts[name] for i, name in enumerate(names))
        np.testing.assert_allclose(outputs[gate], mixed, rtol=1e-5, atol=1e-6)


def test_a_gate_with_one_expert_has_no_parameters_and_returns_1():
    gate = pk.Gate(1, gate_block=[4])
    np.testing.assert_array_equal(numpy_of(gate(features(3, 2))), np.ones((3, 1)))
    assert gate.weights == []


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_gate_weights_are_finite_in_half_precision_at_low_temperature(policy):
    gate = pk.Gate(4, softmax_temperature=0.05, dtype=policy)
    weights = numpy_of(keras.ops.cast(gate(300 * features(64, 8)), "float32"))
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=2e-2)
