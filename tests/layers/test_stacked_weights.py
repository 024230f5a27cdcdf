"""Stacked weights in compiled and exported levels of PyTorch."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_all_close, features

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.compile needs PyTorch"
)

if keras.backend.backend() == "torch":
    import torch


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
    assert_all_close(gradients(compiled), gradients(block), atol=1e-5)
    program = torch.export.export(block, (x,))
    found = program.module()(x)["a"].detach()
    np.testing.assert_allclose(found, block(x)["a"].detach(), atol=1e-6)
