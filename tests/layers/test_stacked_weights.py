"""Slices of stacked weights, while another thread trains the stack."""

import threading

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.layers.experts import unstack_experts
from tests.helpers import features, numpy_of

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="only slices of PyTorch can be views"
)

if keras.backend.backend() == "torch":
    import torch


def change(*variables):
    """Change variables in place, as an optimizer does."""
    with torch.no_grad():
        for variable in variables:
            variable.value.add_(1.0)


@pytest.mark.parametrize("when", ["before the product", "before the gradient"])
def test_a_change_in_place_does_not_affect_a_call_that_has_begun(when):
    stack = keras.Variable(features(2, 3, 4))
    before = numpy_of(stack)
    x = torch.from_numpy(features(5, 3)).requires_grad_()
    slices = unstack_experts(stack)
    if when == "before the product":
        change(stack)
    products = [x @ kernel for kernel in slices]
    if when == "before the gradient":
        change(stack)
    sum(product.sum() for product in products).backward()
    expected = np.tile(before.sum(axis=(0, 2)), (5, 1))
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-5)
    of_stack = np.tile(x.detach().numpy().sum(axis=0)[:, None], (2, 1, 4))
    np.testing.assert_allclose(stack.value.grad.numpy(), of_stack, atol=1e-5)


def test_a_call_with_gradients_works_while_another_thread_trains():
    block = pk.CGCBlock(["a", "b"], [8, 4], num_task_experts=2)
    x = torch.from_numpy(features(700, 5))  # too many rows for a batched level
    block(x)
    is_done, errors = threading.Event(), []

    def train():
        while not is_done.is_set():
            change(*block.trainable_variables)

    def call():
        try:
            for _ in range(60):
                block(x)
        except RuntimeError as error:
            errors.append(error)
        finally:
            is_done.set()

    threads = [threading.Thread(target=run) for run in (train, call)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_compiled_and_exported_levels_have_equal_outputs_and_gradients():
    block = pk.CGCBlock(["a"], [4, 3])
    x = torch.from_numpy(features(6, 5))
    block(x)

    def gradients(call):
        block.zero_grad()
        outputs = call(x)
        sum(output.square().sum() for output in outputs.values()).backward()
        return [outputs["a"].detach(), *(w.value.grad.clone() for w in block.trainable_weights)]

    compiled = torch.compile(block, backend="eager", fullgraph=True)
    for found, expected in zip(gradients(compiled), gradients(block)):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    program = torch.export.export(block, (x,))
    found = program.module()(x)["a"].detach()
    np.testing.assert_allclose(found, block(x)["a"].detach(), atol=1e-6)
