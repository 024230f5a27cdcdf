"""Files of a level: gates load the weights of gates that read the same input."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of
from tests.refusals import check_refused

# The context is as wide as the features, so that the kernels of "stream" and "context" are alike.
INPUTS = {"x": features(4, 3), "context": features(4, 3, seed=1)}


def model_of(reads):
    """Return a model of one level."""
    x, context = (keras.Input((3,), name=name) for name in INPUTS)
    block = pk.CGCBlock(["click", "buy"], [3], gate_reads=reads, name="cgc")
    if reads == "stream":
        return keras.Model(x, block(x))
    return keras.Model({"x": x, "context": context}, block(x, gate_context=context))


@pytest.fixture
def weights_file(tmp_path):
    """Return a function that saves the weights of a model of a level, and returns the path."""

    def save(reads, is_of_0_1_0=False):
        path = tmp_path / "m.weights.h5"
        model_of(reads).save_weights(path)
        if is_of_0_1_0:
            h5py = pytest.importorskip("h5py")
            with h5py.File(path, "r+") as file:
                del file["layers/cgc_block/vars/gate_reads"]
        return path

    return save


@pytest.mark.parametrize(
    ("saved", "reads"),
    [("stream", "context"), ("context", "stream"), ("stream", "both"), ("both", "context")],
)
def test_weights_of_gates_with_another_input_are_refused(saved, reads, weights_file):
    path = weights_file(saved)
    check_refused(
        lambda: model_of(reads).load_weights(path),
        ValueError,
        rf"gate_reads='{saved}', but 'cgc' has gate_reads='{reads}'.*transfer_weights.*"
        rf"Received: gate_reads='{reads}'",
    )


def test_files_of_0_1_0_have_gates_that_read_their_streams(weights_file):
    path = weights_file("stream", is_of_0_1_0=True)
    first, second = model_of("stream"), model_of("stream")
    first.load_weights(path)
    second.load_weights(path)
    assert_same(numpy_of(first(INPUTS["x"])), numpy_of(second(INPUTS["x"])), atol=0)
    with pytest.raises(ValueError, match="gate_reads='stream', but 'cgc' has gate_reads='context'"):
        model_of("context").load_weights(path)
