"""Gates: statistics, temperature, dropout and the balance loss."""

import math

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once
from tests.layers.reference import softmax
from tests.models import chain, cloned, loaded
from tests.refusals import BOOLS, FRACTION, POSITIVE, arguments_refused, at, at_least, check_refused


def cgc_model(**kwargs):
    inputs = keras.Input((4,))
    block = pk.CGCBlock(["a", "b"], 3, num_task_experts=2, **kwargs)
    model = keras.Model(inputs, block(inputs)["a"])
    model.compile("sgd", "mse", jit_compile=False)
    return model, block


def test_statistics_are_exact_means_over_all_examples():
    model, block = cgc_model(enable_gate_weights_metrics=True)
    x = features(10, 4)
    block(x)  # a call outside the loops of Keras does not count
    block(features(0, 4), training=True)
    assert math.isnan(block.gate_statistics()["a"]["entropy"])
    model.predict(x, batch_size=4, verbose=0)
    weights = numpy_of(block.gate_weights(x))["a"]
    statistics = block.gate_statistics()["a"]
    np.testing.assert_allclose(statistics["mean"], weights.mean(axis=0), rtol=1e-6)
    assert statistics["max"] == pytest.approx(weights.max(axis=1).mean(), rel=1e-6)
    entropy = -(weights * np.log(weights)).sum(axis=1).mean() / np.log(3)
    assert statistics["entropy"] == pytest.approx(entropy, rel=1e-5)
    block.reset_gate_statistics()
    assert math.isnan(block.gate_statistics()["a"]["max"])
    assert len(cgc_model()[0].weights) == len(model.trainable_weights)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX traces can leak into state")
def test_a_jax_trace_outside_keras_leaves_no_tracer_in_the_statistics():
    """Such traces come from jax2onnx and from `jax.jit`."""
    import jax

    model, block = cgc_model(enable_gate_weights_metrics=True)
    x = features(3, 4)
    traced = jax.jit(lambda x: model(x, training=False))(x)
    assert math.isnan(block.gate_statistics()["a"]["max"])
    np.testing.assert_allclose(model.predict(x, verbose=0), traced, rtol=1e-6)
    assert block.gate_statistics()["a"]["mean"].sum() == pytest.approx(1)


# Dropout and balance loss.


def gate_and_logits(rows=400, **kwargs):
    """Return a gate whose kernel is the identity, and inputs, which are its logits."""
    gate = pk.Gate(4, **kwargs)
    gate.build((None, 4))
    gate.trainable_weights[0].assign(np.eye(4))
    return gate, features(rows, 4)


def test_gate_dropout_is_the_softmax_over_the_kept_experts_only_in_training():
    gate, logits = gate_and_logits(dropout=0.5)
    weights = numpy_of(gate(logits, training=True))
    kept = weights > 0
    assert 0.4 < kept.mean() < 0.65  # half of them, and one where all would be dropped
    expected = softmax(np.where(kept, logits, -1e30))
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
    for training in (False, None):
        weights = numpy_of(gate(logits, training=training))
        np.testing.assert_allclose(weights, softmax(logits), rtol=1e-5, atol=1e-6)


def test_each_example_keeps_an_expert_and_all_experts_are_kept_equally_often():
    gate, logits = gate_and_logits(rows=4000, dropout=0.99)
    kept = numpy_of(gate(logits, training=True)) > 0
    assert kept.any(axis=-1).all()
    assert kept.sum(axis=-1).mean() == pytest.approx(1.0, abs=0.1)
    np.testing.assert_allclose(kept.mean(axis=0), 0.25, atol=0.05)


def test_statistics_use_the_weights_before_dropout():
    gate, logits = gate_and_logits(dropout=0.5, track_weights=True)
    gate(logits, training=True)
    expected = softmax(logits)
    np.testing.assert_allclose(gate.statistics()["mean"], expected.mean(axis=0), rtol=1e-5)
    assert gate.statistics()["max"] == pytest.approx(expected.max(axis=-1).mean(), rel=1e-5)


def test_the_balance_loss_is_the_squared_coefficient_of_variation_of_the_load():
    gate, logits = gate_and_logits(balance_regularizer=0.1)
    gate(logits)
    load = softmax(logits).sum(axis=0)
    (loss,) = gate.losses
    assert float(numpy_of(loss)) == pytest.approx(0.1 * load.var() / load.mean() ** 2, rel=1e-4)


def test_the_balance_loss_ignores_masked_positions():
    mask = np.arange(5) < np.array([[5], [2]])
    x = features(2, 5, 4) * mask[..., None]
    gate, _ = gate_and_logits(balance_regularizer=1.0)
    gate(keras.layers.Masking()(x))
    load = softmax(x[mask]).sum(axis=0)
    assert float(numpy_of(gate.losses[0])) == pytest.approx(load.var() / load.mean() ** 2, rel=1e-4)


@once
def test_gates_of_a_block_draw_different_kernels_with_one_seeded_initializer(tmp_path):
    options = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=1),
        "kernel_regularizer": keras.regularizers.L2(0.1),
    }
    model = chain(pk.PLEBlock(2, ["a", "b"], 4, gate_kwargs=options), width=4)
    kernels = [numpy_of(w) for w in model.weights if "projection" in w.path]
    of_two_experts = [w.tobytes() for w in kernels if w.shape == (4, 2)]
    assert len({*of_two_experts}) == len(of_two_experts) == 4
    expected = sum(0.1 * np.square(w).sum() for w in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert len(loaded(model, tmp_path).losses) == len(kernels)
    again = cloned(model, tmp_path).weights
    np.testing.assert_equal([numpy_of(w) for w in again if "projection" in w.path], kernels)


def test_a_gate_with_one_expert_returns_1_without_weights_dropout_and_balance_loss():
    gate = pk.Gate(1, gate_block=[4], dropout=0.9, balance_regularizer=1.0)
    np.testing.assert_array_equal(numpy_of(gate(features(5, 4), training=True)), np.ones((5, 1)))
    assert gate.losses == gate.weights == []


def test_the_softmax_is_computed_in_float32():
    gate = pk.Gate(2, softmax_temperature=1e-4, kernel_initializer="ones", dtype="mixed_float16")
    weights = gate(np.full((3, 4), 10, "float16"))  # the logits W x / T overflow in float16
    np.testing.assert_array_equal(numpy_of(weights), np.full((3, 2), 0.5))


test_a_bad_argument_is_refused = arguments_refused(
    {pk.Gate: {"num_experts": 2}},
    [
        (at("num_experts", pk.Gate), at_least(1)),
        (at("softmax_temperature", pk.Gate), POSITIVE),
        (at("dropout", pk.Gate), FRACTION),
        (
            at("balance_regularizer", pk.Gate),
            [(-1, ValueError, "at least 0"), ("l2", TypeError, "must be a number")],
        ),
        (at("track_weights", pk.Gate), BOOLS),
    ],
)


@once
def test_a_gate_without_weights_has_no_statistics():
    gate = pk.Gate(3, track_weights=True)
    check_refused(gate.statistics, ValueError, "be built.*Received: built=False$")
