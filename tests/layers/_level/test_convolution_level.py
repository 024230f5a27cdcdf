"""Levels in ONNX files from PyTorch give the same results as in training."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.layers._level import regular_level
from tests.helpers import assert_same, features, numpy_of, randomize
from tests.layers._level.blocks import TASKS, built

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="only PyTorch exports levels as convolutions"
)

if keras.backend.backend() == "torch":
    import torch


@pytest.fixture
def in_export(monkeypatch):
    """Return a function that calls another one as during the export of an ONNX file."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(regular_level, "_is_onnx_export", lambda: True)
            return function()

    return call


def is_convolved(ple, x):
    level = ple[0]._level
    return level._regular.is_convolved(level.streams(keras.ops.convert_to_tensor(x)))


@pytest.mark.parametrize(
    ("tasks", "own", "shared"),
    [case for case in itertools.product((1, 3), (0, 1, 2), (0, 1, 3)) if case[1] + case[2] > 1],
)
@pytest.mark.parametrize("is_one_input", [True, False])
def test_outputs_and_gate_weights_are_equal(tasks, own, shared, is_one_input, in_export):
    x = features(5, 3)
    if not is_one_input:
        streams = [*TASKS[:tasks], *(["shared"] if shared else [])]
        x = {name: features(5, 3, seed=i) for i, name in enumerate(streams)}
    ple = built(x, TASKS[:tasks], name="ple", num_task_experts=own, num_shared_experts=shared)
    assert ple[0]._level._regular._is_regular
    expected, expected_weights = ple(x, return_gate_weights=True)
    found, weights = in_export(lambda: ple(x, return_gate_weights=True))
    assert_same(numpy_of(found), numpy_of(expected))
    for level in range(2):
        assert_same(numpy_of(weights[f"ple/{level}"]), numpy_of(expected_weights[f"ple/{level}"]))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"expert_block": pk.ExpertBlock([6, 5, 4], activation="gelu", use_bias=False)},
        {"expert_block": pk.ExpertBlock([4], activation="tanh", dropout=0.5)},
        {"gate_softmax_temperature": 0.3, "enable_gate_weights_metrics": True},
        {"isolate_task_experts": True},
        {"gate_dropout": 0.5, "expert_balance_regularizer": 0.1},
        {"gate_reads": "context", "context": features(5, 2, seed=3)},
        {"gate_reads": "both", "context": features(5, 2, seed=3)},
    ],
)
def test_outputs_are_equal_with_options(kwargs, in_export):
    x = features(5, 3)
    ple = built(x, **kwargs)
    assert in_export(lambda: is_convolved(ple, x))
    call = lambda: ple(x, gate_context=kwargs.get("context"), training=False)  # noqa: E731
    expected = numpy_of(call())
    assert_same(numpy_of(in_export(call)), expected)


def test_a_nan_of_a_task_does_not_reach_the_experts_of_others(in_export):
    x = {stream: features(5, 3, seed=i) for i, stream in enumerate([*TASKS, "shared"])}
    cgc = pk.CGCBlock(TASKS, [4], add_shared_gate=False)
    cgc(x)
    randomize(cgc)
    expected = numpy_of(cgc(x))
    x["buy"] = np.full((5, 3), np.nan, "float32")
    found = numpy_of(in_export(lambda: cgc(x)))
    assert np.isnan(found.pop("buy")).all()
    assert_same(found, {task: expected[task] for task in found})


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_inputs_may_be_integers_and_booleans(dtype, in_export):
    x = keras.ops.convert_to_tensor(np.arange(15).reshape(5, 3) % 2, dtype)
    ple = built(x)
    assert in_export(lambda: is_convolved(ple, x))
    assert_same(numpy_of(in_export(lambda: ple(x))), numpy_of(ple(x)))


def test_float64_is_not_convolved_since_onnx_runtime_has_no_such_convolution(in_export):
    x = features(5, 3)
    ple = built(x, dtype="float64")
    assert not in_export(lambda: is_convolved(ple, x))


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "sparsemax"])
def test_activations_over_all_features_of_an_expert_are_not_convolved(activation, in_export):
    x = features(5, 3)
    ple = built(x, expert_block=pk.ExpertBlock([4], activation=activation))
    assert not in_export(lambda: is_convolved(ple, x))


def test_only_an_export_to_onnx_is_convolved():
    x = features(5, 3)
    assert not is_convolved(built(x), x)


def test_other_threads_are_not_convolved_during_an_export(tmp_path):
    pytest.importorskip("onnx")
    x, found = features(5, 3), {}
    ple = built(x)

    class Both(torch.nn.Module):
        def forward(self, inputs):
            found["export"] = is_convolved(ple, inputs)
            with ThreadPoolExecutor(1) as pool:
                found["other"] = pool.submit(is_convolved, ple, x).result()
            return inputs + 1

    torch.onnx.export(Both(), torch.from_numpy(x), tmp_path / "model.onnx", dynamo=False)
    assert found == {"export": True, "other": False}
