"""`Model.quantize` quantizes experts, gates and heads, and files keep them quantized."""

import gc

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests import templates
from tests.helpers import assert_same, features, numpy_of, randomize
from tests.models import chain
from tests.pairs import fewer
from tests.templates import CopiedExpert


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    """Disable the garbage collection that Keras runs after quantizing each layer. It is slow."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


EXPERTS = {
    "expert block": lambda: pk.ExpertBlock([6, 4], dropout=0.1, normalization="batch"),
    "subclass": lambda: CopiedExpert([4]),
    "with automatic names inside": lambda: templates.OwnExpert(4),
    "any layer": lambda: keras.Sequential([keras.layers.Dense(4, "relu")]),
}


def model_of(block):
    heads = pk.TaskHeads([pk.BinaryHead("click", tower=[3]), pk.RegressionHead("time")])
    model = chain(block, heads, width=5)
    randomize(model, scale=1.0)
    return model


def block_of(expert, **kwargs):
    return pk.CGCBlock(["click", "time"], expert, add_shared_gate=False, name="cgc", **kwargs)


def quantizable(experts="subclass"):
    return model_of(block_of(EXPERTS[experts](), stack_experts=False))


def kernels(model):
    return [weight for weight in model.weights if weight.name.startswith("kernel")]


def is_int8(variable):
    return keras.backend.standardize_dtype(variable.dtype) == "int8"


@pytest.mark.parametrize("experts", fewer({name: name for name in EXPERTS}, "subclass"))
def test_every_kernel_is_quantized_and_stays_quantized_in_a_file(experts, tmp_path):
    model = quantizable(experts)
    x = features(64, 5)
    before = numpy_of(model(x))
    model.quantize("int8")
    quantized = numpy_of(model(x))
    assert all(is_int8(kernel) for kernel in kernels(model) if "scale" not in kernel.name)
    for task in before:
        spread = np.ptp(before[task])
        assert 0 < np.abs(quantized[task] - before[task]).max() < 0.1 * spread
    model.save(tmp_path / "model.keras")
    assert_same(numpy_of(keras.models.load_model(tmp_path / "model.keras")(x)), quantized, atol=0)


def test_a_shared_bottom_stays_quantized_in_a_file(tmp_path):
    model = model_of(pk.SharedBottomBlock(["click", "time"], keras.layers.Dense(4, "relu")))
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = features(8, 5)
    assert_same(numpy_of(loaded(x)), numpy_of(model(x)), atol=0)
    assert sum(map(is_int8, loaded.weights)) == 4


STACKED = r"stacked experts of 'cgc/experts' .* stack_experts=False\. Received: mode='int8'"


def test_stacked_experts_give_a_warning_and_stay_in_float(tmp_path):
    model = model_of(block_of([4]))
    with pytest.warns(UserWarning, match=STACKED):
        model.quantize("int8")
    in_float = [kernel.path for kernel in kernels(model) if not is_int8(kernel)]
    assert [path for path in in_float if "scale" not in path] == ["cgc/experts/kernel_0"]
    x = features(8, 5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(numpy_of(loaded(x)), numpy_of(model(x)), atol=0)


def test_gate_weights_and_reports_of_a_quantized_model_are_close_to_the_original():
    model = quantizable()
    x = features(64, 5)
    before = pk.gate_weights(model, x)["cgc"]
    model.quantize("int8")
    report = pk.gate_report(model, x)
    for gate, weights in pk.gate_weights(model, x)["cgc"].items():
        assert 0 < np.abs(weights - before[gate]).max() < 0.1
        means = list(report.levels["cgc"].gates[gate].mean.values())
        np.testing.assert_allclose(means, weights.mean(0), atol=1e-5)


def test_a_partly_quantized_model_is_loaded_partly_quantized(tmp_path):
    model = quantizable()
    for layer in model._flatten_layers():
        if layer.name == "projection":
            layer.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [is_int8(w) for w in loaded.weights] == [is_int8(w) for w in model.weights]
    x = features(8, 5)
    assert_same(numpy_of(loaded(x)), numpy_of(model(x)), atol=0)


def test_transfer_weights_refuses_quantized_models():
    model = quantizable()
    other = quantizable()
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"source must not be quantized: .* 'cgc/.*' quantized"):
        pk.transfer_weights(model, other)
    with pytest.raises(ValueError, match="target must not be quantized"):
        pk.transfer_weights(other, model)
