"""Initialization of experts from one network."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.transfer._slices import expert_slices
from tests.helpers import assert_same, features, numpy_of, randomize
from tests.templates import CopiedExpert


@pytest.mark.parametrize("kind", [pk.ExpertBlock, CopiedExpert])
def test_every_expert_starts_from_one_network(kind):
    x = features(2, 3)
    network = keras.Sequential([keras.layers.Dense(5, "relu"), keras.layers.Dense(4, "relu")])
    network(x)
    randomize(network)
    cgc = pk.CGCBlock(["a", "b"], kind([5, 4]), num_task_experts=2)
    cgc(x)
    pk.start_experts(cgc, network, noise=0)
    for output in numpy_of(cgc.expert_outputs(x)).values():
        np.testing.assert_allclose(output, numpy_of(network(x)), atol=1e-6)
    pk.start_experts(cgc, network, noise=0.1, seed=1)
    outputs = numpy_of(cgc.expert_outputs(x))
    assert len({output.tobytes() for output in outputs.values()}) == len(outputs)
    kernel = np.array(network.weights[0])
    stack, where = expert_slices(cgc)["a/expert_0"][0]
    of_first = np.array(stack)[where]
    share = np.sqrt(np.mean((of_first - kernel) ** 2) / np.mean(kernel**2))
    assert 0.05 < share < 0.2
    pk.start_experts(cgc, network, noise=0.1, seed=1)
    assert_same(numpy_of(cgc.expert_outputs(x)), outputs, atol=0)


def test_noise_does_not_change_statistics():
    network = pk.ExpertBlock([4], normalization="batch")
    cgc = pk.CGCBlock(["a"], pk.ExpertBlock([4], normalization="batch"))
    for layer in (network, cgc):
        layer(features(2, 3))
    pk.start_experts(cgc, network, noise=10.0)
    for variable, where in expert_slices(cgc)["a/expert_0"]:
        if "moving_variance" in variable.path:
            np.testing.assert_array_equal(np.array(variable)[where], 1)


def test_noise_depends_only_on_the_seed():
    network = pk.ExpertBlock([4])
    cgc = pk.CGCBlock(["a"], [4])
    network(features(2, 3)), cgc(features(2, 3))

    def started(**kwargs):
        pk.start_experts(cgc, network, **kwargs)
        return np.array(cgc.weights[0])

    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        runs.append(started())
    np.testing.assert_array_equal(*runs)
    assert (started() != runs[0]).any()
    with pytest.raises(TypeError, match="seed must be an integer"):
        started(seed="x")
    with pytest.raises(ValueError, match="seed must be at least 0"):
        started(seed=-1)


def test_wrong_arguments_are_refused():
    cgc = pk.CGCBlock(["a"], [5, 4])
    network = pk.ExpertBlock([5, 3])
    with pytest.raises(ValueError, match="block must be built"):
        pk.start_experts(cgc, network)
    cgc(features(2, 3))
    with pytest.raises(ValueError, match="network must be built"):
        pk.start_experts(cgc, network)
    network(features(2, 3))
    with pytest.raises(
        ValueError, match=r"network must have .* but 'a/expert_0' differs: .*\(5, 3\)"
    ):
        pk.start_experts(cgc, network)
    with pytest.raises(TypeError, match="block must be a CGCBlock"):
        pk.start_experts(network, network)
    with pytest.raises(ValueError, match="noise must be at least 0"):
        pk.start_experts(cgc, pk.ExpertBlock([5, 4]), noise=-1)
