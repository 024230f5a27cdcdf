"""Behavior of PyTorch that is not promised, and that traced steps need."""

import gc
import weakref

import pytest

from tests.helpers import once

torch = pytest.importorskip("torch")
traced_step = pytest.importorskip("ple_keras.steps.traced_step")
pytestmark = once


def test_operations_are_recorded_without_running_them_and_constants_are_references():
    constant = torch.ones(2)
    module, constants = traced_step.record(
        lambda x: x.add_(constant) * 2, [argument := torch.zeros(2)]
    )
    assert argument.tolist() == [0, 0]
    assert [*constants.values()] == [constant]
    targets = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    assert targets == ["aten.add_.Tensor", "aten.mul.Tensor"]


def test_a_function_of_a_graph_holds_its_constants_alone():
    constant = torch.ones(2)
    module, constants = traced_step.record(
        lambda x, y: (x + constant, torch.softmax(y, -1)), [torch.eye(2), torch.ones(2, 2)]
    )
    function = traced_step.to_function(module, constants)
    known = weakref.ref(module)
    del module
    gc.collect()
    assert known() is None
    constant.add_(1)
    total, weights = function(torch.eye(2), torch.zeros(2, 2))
    assert total.tolist() == [[3, 2], [2, 3]]
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
