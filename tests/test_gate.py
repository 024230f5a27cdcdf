"""Gates alone: what they keep track of, and what they leave alone."""

import math

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of


def make_model(**kwargs):
    inputs = keras.Input((4,))
    block = pk.CGCBlock(["a", "b"], 3, num_task_experts=2, **kwargs)
    model = keras.Model(inputs, block(inputs)["a"])
    model.compile("sgd", "mse", jit_compile=False)
    return model, block


def test_statistics_are_exact_means_over_all_examples_seen():
    model, block = make_model(enable_gate_weights_metrics=True)
    x = features(10, 4)
    model.predict(x, batch_size=4, verbose=0)
    weights = numpy_of(block.gate_weights(x))["a"]
    statistics = block.gate_statistics()["a"]
    np.testing.assert_allclose(statistics["mean"], weights.mean(axis=0), rtol=1e-6)
    assert statistics["max"] == pytest.approx(weights.max(axis=1).mean(), rel=1e-6)
    entropy = -(weights * np.log(weights)).sum(axis=1).mean() / np.log(3)
    assert statistics["entropy"] == pytest.approx(entropy, rel=1e-5)
    block.reset_gate_statistics()
    assert math.isnan(block.gate_statistics()["a"]["max"])


def test_a_call_outside_of_keras_loops_leaves_the_statistics_alone():
    _, block = make_model(enable_gate_weights_metrics=True)
    block(features(3, 4))
    assert math.isnan(block.gate_statistics()["a"]["entropy"])


def test_tracking_survives_training_and_off_it_costs_no_weight():
    tracking, block = make_model(enable_gate_weights_metrics=True)
    tracking.fit(features(8, 4), features(8, 3), epochs=2, batch_size=4, verbose=0)
    assert block.gate_statistics()["b"]["mean"].sum() == pytest.approx(1)
    plain, _ = make_model()
    assert plain.non_trainable_weights == []
    assert len(plain.trainable_weights) == len(tracking.trainable_weights)


def test_without_tracking_there_are_no_statistics():
    _, block = make_model()
    with pytest.raises(ValueError, match="Received: enable_gate_weights_metrics=False"):
        block.gate_statistics()
    with pytest.raises(ValueError, match="Received: track_weights=False"):
        pk.Gate(2).statistics()


def test_an_empty_batch_counts_nothing():
    block = pk.CGCBlock(["a"], 3, enable_gate_weights_metrics=True)
    block(features(2, 4))
    block(features(0, 4), training=False)
    assert math.isnan(block.gate_statistics()["a"]["max"])


def test_lower_temperature_is_sharper():
    x = features(50, 4)
    keras.utils.set_random_seed(1)
    gates = [pk.Gate(3, softmax_temperature=t, kernel_initializer="ones") for t in (0.1, 1.0)]
    for gate in gates:
        gate.build(x.shape)
        gate.set_weights([features(4, 3, seed=1)])
    sharp, soft = (numpy_of(gate(x)).max(axis=1).mean() for gate in gates)
    assert sharp > soft + 0.1


def test_a_kernel_regularizer_is_a_loss():
    gate = pk.Gate(3, kernel_regularizer="l2")
    gate(features(2, 4))
    kernel = numpy_of(gate.weights[0])
    assert float(sum(gate.losses)) == pytest.approx(0.01 * (kernel**2).sum(), rel=1e-5)
