"""Comparison of every block with the NumPy reference, for random tasks, experts and levels."""

import hypothesis
import pytest
from hypothesis import strategies as st

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, randomize
from tests.layers import reference
from tests.pairs import fewer
from tests.templates import CopiedExpert

NAMES = ["click", "click_buy", "a", "B-2", "10th", "z_", "9"]


@st.composite
def cases(draw):
    """Draw the arguments of a PLEBlock and the kinds of its inputs and contexts."""
    tasks = draw(st.permutations(NAMES))[: draw(st.integers(1, 4))]
    shared = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    counts = []
    for count in shared:
        number = st.integers(0 if count else 1, 2)
        counts.append(draw(number | st.fixed_dictionaries(dict.fromkeys(tasks, number))))
    if draw(st.booleans()):  # equal levels
        shared, counts = [shared[0]] * len(shared), [counts[0]] * len(shared)
    expert = draw(st.sampled_from([pk.ExpertBlock, CopiedExpert]))
    return {
        "num_layers": len(shared),
        "outputs": tasks,
        "expert_block": expert(draw(st.sampled_from([[4], [5, 3], [3, 4, 2]]))),
        "num_task_experts": counts,
        "num_shared_experts": tuple(shared),
        "gate_block": draw(st.sampled_from([None, 3, [4, 2]])),
        "gate_softmax_temperature": draw(st.sampled_from([1.0, 0.3, 4.0])),
        "gate_reads": draw(st.sampled_from(["stream", "context", "both"])),
        "isolate_task_experts": draw(st.booleans()),
    }


LEADING = [(2,), (1,), (2, 3), (2, 2, 3)]


@hypothesis.given(cases(), st.sampled_from(LEADING), st.booleans(), st.booleans())
@hypothesis.settings(max_examples=2 * hypothesis.settings().max_examples)
def test_ple_equals_the_equations(arguments, leading, is_by_stream, is_by_gate):
    ple = pk.PLEBlock(**arguments, name="ple")
    shared = arguments["num_shared_experts"]
    for level, (block, count) in enumerate(zip(ple, arguments["num_task_experts"])):
        by_task = count if isinstance(count, dict) else dict.fromkeys(ple[0].task_names, count)
        assert block.num_task_experts == by_task
        assert block.num_shared_experts == shared[level]
        assert block.add_shared_gate == any(shared[level + 1 :])
    names = [*arguments["outputs"], *(["shared"] if any(shared) else [])]
    x, context = features(*leading, 3), features(*leading, 2, seed=9)
    if is_by_stream:
        x = {name: features(*leading, 3 + i, seed=i) for i, name in enumerate(names)}
    if is_by_gate:
        context = {name: features(*leading, 2 + i, seed=20 + i) for i, name in enumerate(names)}
    call = {} if arguments["gate_reads"] == "stream" else {"gate_context": context}
    ple(x, **call)
    randomize(ple)
    outputs, weights = ple(x, **call, return_gate_weights=True)
    expected, expected_weights = reference.ple(ple, x, context)
    expected = {task: expected[task] for task in arguments["outputs"]}
    assert_same(numpy_of(outputs), expected)
    assert_same(numpy_of(ple(x, **call)), expected)
    for level, of_level in enumerate(expected_weights):
        assert_same(numpy_of(weights[f"ple/{level}"]), of_level)


BLOCKS = {
    "mmoe": lambda: pk.MMoEBlock(["a", "b", "c"], [6, 4], num_experts=3),
    "cgc": lambda: pk.CGCBlock(["a", "b"], [6, 4], {"a": 2, "b": 0}, num_shared_experts=2),
    "many": lambda: pk.CGCBlock(MANY, 3, {**dict.fromkeys(MANY, 1), "t7": 12}),
}
MANY = [f"t{i}" for i in range(30)]


@pytest.mark.parametrize("make", fewer(BLOCKS, "mmoe", "cgc"))
def test_a_single_level_equals_the_equations(make):
    block, x = make(), features(7, 5)
    block(x)
    randomize(block)
    expected, _ = reference.ple([block], x)
    assert ("shared" in expected) == block.add_shared_gate
    assert_same(numpy_of(block(x)), expected)


def test_experts_have_the_given_order():
    assert BLOCKS["mmoe"]().expert_names == [f"shared/expert_{i}" for i in range(3)]
    block = BLOCKS["many"]()
    assert block.expert_names[6:9] == ["t6/expert_0", "t7/expert_0", "t7/expert_1"]
    assert block.gate_experts["t7"] == [*(f"t7/expert_{i}" for i in range(12)), "shared/expert_0"]
