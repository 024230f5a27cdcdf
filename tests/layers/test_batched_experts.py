"""On eager PyTorch, batched experts give the same results as experts one by one."""

import itertools

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.layers.experts import Experts
from tests.helpers import assert_same, features, numpy_of, randomize
from tests.models import chain
from tests.pairs import pairs
from tests.templates import CopiedExpert

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="only PyTorch has batched experts"
)


TASKS = ["click", "buy", "like"]


def built(x, tasks=TASKS, expert_block=(6, 4), context=None, **kwargs):
    """Return a PLE of two levels with random weights, built on `x`."""
    ple = pk.PLEBlock(2, tasks, expert_block, **kwargs)
    ple(x, gate_context=context)
    randomize(ple)
    return ple


@pytest.fixture
def unbatched(monkeypatch):
    """Return a function that calls another one without batched levels."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(Experts, "is_batched", lambda self, streams: False)
            return function()

    return call


def is_batched(blocks, x, context=None):
    """Return whether the experts of the first of some levels are batched for an input."""
    calls = []
    experts = blocks[0]._level.experts
    call_batched = experts.call_batched
    experts.call_batched = lambda *args: calls.append(args) or call_batched(*args)
    blocks[0](x, gate_context=context)
    del experts.call_batched
    return bool(calls)


COUNTS = [case for case in itertools.product((1, 3), (0, 1, 2), (0, 1, 3)) if sum(case[1:]) > 1]


@pytest.mark.parametrize(
    ("tasks", "own", "shared", "is_one_input"),
    pairs({"-".join(map(str, case)): case for case in COUNTS}, {"one": True, "by_stream": False}),
)
def test_outputs_and_gradients_are_equal_to_unbatched_ones(
    tasks, own, shared, is_one_input, unbatched
):
    import torch

    x = torch.from_numpy(features(5, 3))
    if not is_one_input:
        streams = [*TASKS[:tasks], *(["shared"] if shared else [])]
        x = {name: torch.from_numpy(features(5, 3, seed=i)) for i, name in enumerate(streams)}
    ple = built(
        x,
        TASKS[:tasks],
        num_task_experts=own,
        num_shared_experts=shared,
        gate_softmax_temperature=0.5,
    )
    assert is_batched(ple, x)

    def outputs_and_gradients():
        ple.zero_grad()
        outputs = ple(x)
        sum(output.square().sum() for output in outputs.values()).backward()
        gradients = {w.path: w.value.grad.numpy().copy() for w in ple.trainable_weights}
        return numpy_of({name: output.detach() for name, output in outputs.items()}), gradients

    actual_values, expected_values = outputs_and_gradients(), unbatched(outputs_and_gradients)
    for actual, expected in zip(actual_values, expected_values):
        assert_same(actual, expected)


@pytest.mark.parametrize(
    ("reads", "is_by_gate", "own"), [("context", False, 0), ("context", True, 2), ("both", True, 0)]
)
def test_outputs_weights_and_gradients_with_a_context_are_equal_to_unbatched_ones(
    reads, is_by_gate, own, unbatched
):
    x, context = features(5, 3), features(5, 2, seed=1)
    if is_by_gate:
        gates = [*TASKS, "shared"]
        context = {gate: features(5, 2, seed=i) for i, gate in enumerate(gates)}
    ple = built(
        x,
        context=context,
        num_task_experts=own,
        num_shared_experts=2,
        gate_block=[3],
        gate_reads=reads,
        isolate_task_experts=True,
    )
    assert is_batched(ple, x, context)

    def everything():
        ple.zero_grad()
        outputs, weights = ple(x, gate_context=context, return_gate_weights=True)
        of_gates = {f"{level} {g}": w for level, gates in weights.items() for g, w in gates.items()}
        tensors = {**outputs, **of_gates}
        sum(tensor.square().sum() for tensor in tensors.values()).backward()
        gradients = {w.path: w.value.grad.numpy().copy() for w in ple.trainable_weights}
        return numpy_of({name: tensor.detach() for name, tensor in tensors.items()}), gradients

    for actual, expected in zip(everything(), unbatched(everything)):
        assert_same(actual, expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float64"])
def test_outputs_and_statistics_under_other_policies_are_equal_to_unbatched_ones(policy, unbatched):
    x = features(5, 3)
    ple = built(x, num_task_experts=2, enable_gate_weights_metrics=True, dtype=policy)
    assert is_batched(ple, x)

    def everything():
        ple[0].reset_gate_statistics()
        ple(x[:3], training=True)
        outputs = ple(x, training=False)
        assert {y.dtype for y in outputs.values()} == {getattr(torch, policy.split("_")[-1])}
        outputs = {task: y.detach().float().numpy() for task, y in outputs.items()}
        return outputs | ple[0].gate_statistics()["buy"]

    import torch

    assert_same(everything(), unbatched(everything), atol=1e-5 if policy == "float64" else 3e-2)


def test_dropout_has_the_given_rate_and_is_only_in_training():
    x = np.ones((300, 3), "float32")
    expert = pk.ExpertBlock(50, activation=None, dropout=0.3, bias_initializer="ones")
    cgc = pk.CGCBlock(["a"], expert, num_task_experts=0, num_shared_experts=2)
    cgc(x)
    for weight in cgc.trainable_weights:
        weight.assign(np.full(weight.shape, "bias" in weight.path, "float32"))
    assert is_batched([cgc], x)
    values, counts = np.unique(numpy_of(cgc(x, training=True))["a"].round(4), return_counts=True)
    np.testing.assert_allclose(values, [0, 0.5 / 0.7, 1 / 0.7], atol=1e-4)
    np.testing.assert_allclose(counts / counts.sum(), [0.09, 0.42, 0.49], atol=0.03)
    assert (numpy_of(cgc(x, training=False))["a"] == 1).all()


@keras.saving.register_keras_serializable()
def centered(x):
    return x - keras.ops.mean(x, axis=0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"expert_block": pk.ExpertBlock([6, 4], normalization="layer")},
        {"expert_block": pk.ExpertBlock([6, 4], activity_regularizer="l2")},
        {"expert_block": pk.ExpertBlock([6, 4], activation=centered)},
        {"expert_block": pk.ExpertBlock([6, 4], dtype="float64")},
        {"expert_block": CopiedExpert([6, 4])},
        {"num_task_experts": {"click": 1, "buy": 2, "like": 1}},
    ],
)
def test_unsupported_arguments_disable_batching(kwargs):
    x = features(4, 3)
    assert not is_batched(built(x, **kwargs), x)


@pytest.mark.parametrize("shape", [(513, 3), (0, 3), (2, 5, 3)])
def test_large_empty_and_rank_3_inputs_are_not_batched(shape):
    x = features(*shape)
    assert not is_batched(built(x), x)


def test_masked_inputs_are_not_batched():
    x = keras.ops.convert_to_tensor(features(4, 3))
    x._keras_mask = keras.ops.convert_to_tensor([True, False, True, True])
    assert not is_batched(built(features(4, 3)), x)


def test_wider_experts_are_batched_for_fewer_examples():
    cgc = pk.CGCBlock(["a"], 2**14)
    max_rows = 2**24 // (3 * 2**14)
    cgc(features(1, 3))
    assert is_batched([cgc], features(max_rows, 3))
    assert not is_batched([cgc], features(max_rows + 1, 3))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore::DeprecationWarning")
def test_exported_and_traced_models_accept_any_batch_size():
    import torch

    model, x = chain(built(features(1, 3))), torch.from_numpy(features(600, 3))
    sizes = (({0: torch.export.Dim("batch")},),)
    exported = torch.export.export(model, (x[:2],), dynamic_shapes=sizes).module()
    traced = torch.jit.trace(model, x[:2], strict=False)
    assert_same(numpy_of(exported(x)), numpy_of(model(x)))
    for rows in (x, x[:0]):
        assert_same(numpy_of(traced(rows)), numpy_of(model(rows)))


def test_outputs_allow_in_place_operations():
    block = pk.CGCBlock(["click", "buy"], [4])
    outputs = block(features(8, 3))
    expected = 2 * numpy_of(outputs)["buy"]
    outputs["buy"].mul_(2)
    assert_same({"buy": numpy_of(outputs["buy"])}, {"buy": expected})
    outputs["buy"].sum().backward()
