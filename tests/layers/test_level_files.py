"""Files of a level: gates load the weights of gates that read the same input."""

import keras
import pytest

import ple_keras as pk
from tests.helpers import features
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


@pytest.mark.parametrize(
    ("saved", "reads"),
    [("stream", "context"), ("context", "stream"), ("stream", "both"), ("both", "context")],
)
def test_weights_of_gates_with_another_input_are_refused(saved, reads, tmp_path):
    path = tmp_path / "m.weights.h5"
    model_of(saved).save_weights(path)
    check_refused(
        lambda: model_of(reads).load_weights(path),
        ValueError,
        rf"'gates read {saved}'\], in this order, but 'cgc' has .*'gates read {reads}'\]",
    )
