"""`Model.quantize` quantizes experts, gates and heads in memory. Files and clones refuse them."""

import gc

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, randomize
from tests.models import chain, cloned
from tests.templates import CopiedExpert


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    """Disable the slow garbage collection that Keras runs after quantizing each layer."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def model_of(expert, **kwargs):
    block = pk.CGCBlock(["click", "time"], expert, add_shared_gate=False, name="cgc", **kwargs)
    heads = pk.TaskHeads([pk.BinaryHead("click", tower=[3]), pk.RegressionHead("time")])
    model = chain(block, heads, width=5)
    randomize(model, scale=1.0)
    return model


def quantizable():
    return model_of(CopiedExpert([4]), stack_experts=False)


def kernels(model):
    return [weight for weight in model.weights if weight.name.startswith("kernel")]


def is_int8(variable):
    return keras.backend.standardize_dtype(variable.dtype) == "int8"


def test_a_quantized_model_predicts_and_is_not_saved_or_cloned(tmp_path):
    model = quantizable()
    x = features(64, 5)
    before, weights = numpy_of(model(x)), pk.gate_weights(model, x)["cgc"]
    model.quantize("int8")
    quantized = numpy_of(model(x))
    assert all(is_int8(kernel) for kernel in kernels(model) if "scale" not in kernel.name)
    for task in before:
        spread = np.ptp(before[task])
        assert 0 < np.abs(quantized[task] - before[task]).max() < 0.1 * spread
    for gate, values in pk.gate_weights(model, x)["cgc"].items():
        assert 0 < np.abs(values - weights[gate]).max() < 0.1
    for call in (lambda: model.save(tmp_path / "model.keras"), lambda: cloned(model, None)):
        with pytest.raises(ValueError, match=r"can't be saved or cloned\. .*export_onnx.*'int8'"):
            call()


def test_stacked_experts_give_a_warning_and_stay_in_float():
    model = model_of([4])
    with pytest.warns(UserWarning, match="StackedExperts does not have a `quantize`"):
        model.quantize("int8")
    in_float = [kernel.path for kernel in kernels(model) if not is_int8(kernel)]
    assert [path for path in in_float if "scale" not in path] == ["cgc/experts/kernel_0"]


def test_transfer_weights_refuses_quantized_models():
    model, other = quantizable(), quantizable()
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"source must be .*not quantized.*is_quantized=True"):
        pk.transfer_weights(model, other)
    with pytest.raises(ValueError, match=r"target must be .*not quantized"):
        pk.transfer_weights(other, model)
