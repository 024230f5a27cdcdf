"""HedgedBlock: branches of features for each task."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, randomize, streams
from tests.layers.feature_networks import bottom, columns, network, symbols
from tests.models import cloned, loaded
from tests.refusals import all_refused

TASKS = ["click", "buy"]


def test_default_branches_read_their_own_streams():
    block = pk.HedgedBlock(TASKS, pk.ExpertBlock([4, 3], activation="tanh"))  # no dead units
    inputs = streams(click=5, buy=4, shared=6)
    outputs = numpy_of(block(inputs))
    np.testing.assert_array_equal(outputs["click"]["shared"], outputs["buy"]["shared"])
    for stream in inputs:
        other = numpy_of(block({**inputs, stream: inputs[stream] + 1}))
        changed = {
            (task, branch)
            for task in TASKS
            for branch in ("own", "shared")
            if not np.array_equal(other[task][branch], outputs[task][branch])
        }
        read = {(task, "shared") for task in TASKS} if stream == "shared" else {(stream, "own")}
        assert changed == read


def test_outputs_by_branch_are_in_alphabetical_order():
    """A file refers to outputs by position, and PyTorch does not sort a dict in a dict."""
    block = pk.HedgedBlock(["b", "a"], [3])
    specs = block(keras.Input((4,)))
    outputs, shapes = block(features(2, 4)), block.compute_output_shape((2, 4))
    for by_branch in (*specs.values(), *outputs.values(), *shapes.values()):
        assert list(by_branch) == ["own", "shared"]


def test_custom_branches_read_the_inputs_unchanged():
    """A branch can have a feature network for integer columns."""

    def network():
        inputs = {"item": keras.Input((), dtype="int32"), "price": keras.Input((2,))}
        item = keras.layers.Embedding(9, 3)(inputs["item"])
        return keras.Model(inputs, keras.layers.Concatenate()([item, inputs["price"]]))

    def branch(name):
        return pk.SequentialBlock([network(), pk.SharedBottomBlock(TASKS, 4)], name=name)

    block = pk.HedgedBlock(TASKS, branches={"1st": branch("a"), "2nd": branch("b")})
    x = {"item": np.array([1, 2, 8], "int32"), "price": features(3, 2)}
    outputs = numpy_of(block(x))
    assert outputs["buy"]["2nd"].shape == (3, 4)
    expected = numpy_of(block["1st"](x))
    np.testing.assert_array_equal(outputs["click"]["1st"], expected["click"])
    with pytest.raises(KeyError, match=r"branch must be one of \['1st', '2nd'\]"):
        block["3rd"]


# Copies of the features.


def scaled(width):
    """Return a network with integers, columns `(B,)`, and a layer with adapted state."""
    inputs = {**symbols(), "age": keras.Input((), name="age")}
    scale = keras.layers.Normalization()
    scale.adapt(np.array([[5.0], [20.0], [80.0]]))
    item = keras.layers.Embedding(10, width)(inputs["item"])
    age = keras.ops.expand_dims(inputs["age"], -1)
    return keras.Model(inputs, keras.layers.Concatenate()([item, scale(inputs["price"]), age]))


def aged():
    return {**columns(), "age": np.array([30.0, 40.0, 50.0], "float32")}


NETWORKS = {
    "one": lambda: scaled(3),
    "by_stream": lambda: {"click": scaled(1), "buy": scaled(2), "shared": scaled(3)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_copied_for_each_stream(name, tmp_path):
    networks, x = NETWORKS[name](), aged()
    inputs = keras.tree.map_structure(lambda a: keras.Input(a.shape[1:], dtype=str(a.dtype)), x)
    expert = pk.ExpertBlock([4], activation="tanh")
    block = pk.HedgedBlock(TASKS, expert, features=networks)
    model = keras.Model(inputs, block(inputs))
    by_hand = pk.HedgedBlock(TASKS, expert)(pk.StreamFeatures(TASKS, networks)(inputs))
    other = keras.Model(inputs, by_hand)
    randomize(model)
    other.set_weights(model.get_weights())
    expected = numpy_of(model(x))
    np.testing.assert_equal(numpy_of(other(x)), expected)
    assert all(layer.built for layer in model._flatten_layers())
    block._features.layers[0].trainable = False
    for again in (loaded(model, tmp_path), cloned(model, tmp_path)):
        again.set_weights(model.get_weights())
        np.testing.assert_equal(numpy_of(again(x)), expected)
        paths = [[w.path for w in each.trainable_weights] for each in (model, again)]
        assert paths[0] == paths[1]
        assert len(paths[0]) == len(model.weights) - 1


def test_features_are_copied_for_each_branch(tmp_path):
    branches = {"shared": pk.SharedBottomBlock(TASKS, 4), "ple": pk.PLEBlock(2, TASKS, 4)}
    block, x = pk.HedgedBlock(TASKS, branches=branches, features=network()), columns()
    outputs = numpy_of(block(x))  # columns of integers, without a functional model
    for branch, of_branch in branches.items():
        features = getattr(block._features, f"stream-{branch}")(x)
        expected = numpy_of(of_branch(features))
        for task in TASKS:
            np.testing.assert_allclose(outputs[task][branch], expected[task], rtol=1e-6)
    assert not {id(w) for w in block._features.layers[0].weights} & {
        id(w) for w in block._features.layers[1].weights
    }
    again = pk.HedgedBlock.from_config(block.get_config())
    again.build({key: x.shape for key, x in symbols().items()})  # floats of all columns
    again.set_weights(block.get_weights())
    np.testing.assert_equal(numpy_of(again(x)), outputs)


# Refusals.


def of_branches(**branches):
    return pk.HedgedBlock(["a", "b"], branches=branches)


A_DICT = "branches must be a dict of Keras layers"
BOTH = {"a": bottom(name="a"), "b": bottom(name="b")}
ONE_OF = r"Exactly one of expert_block and branches"
ARGUMENTS = {
    "one": ({"branches": {"a": bottom()}}, "at least two blocks"),
    "key": ({"branches": {"a": bottom(), "a/b": bottom()}}, "key must be at most 128 ASCII le"),
    "equal_names": (
        {"branches": {"a": bottom(name="x"), "b": bottom(name="x")}},
        r"different names, not \['x', 'x'\].*Received: branches",
    ),
    "list": ({"branches": [1, 2]}, TypeError, A_DICT),
    "number": ({"branches": {"a": bottom(), "b": 3}}, TypeError, A_DICT),
    "nothing": ({}, ONE_OF),
    "both": ({"expert_block": 3, "branches": {}}, ONE_OF),
    "no_features": ({"expert_block": 3, "features": {}}, "feature_block must have exactly"),
    "no_features_of_branches": ({"branches": BOTH, "features": {}}, "feature_block must have"),
}
test_a_bad_argument_is_refused = all_refused(
    lambda arguments: pk.HedgedBlock(["a", "b"], **arguments), ARGUMENTS
)
CALLS = {
    "streams_of_branches": (
        lambda: of_branches(bottom=bottom(name="bottom"), ple=pk.PLEBlock(2, ["a", "b"], [3])),
        streams(a=4, b=4, shared=4),
        r"inputs must have a shape \(batch, .*Received: inputs\.shape=\('a', 'b', 'shared'\)",
    ),
    "missing_stream": (
        lambda: pk.HedgedBlock(["a", "b"], 3),
        streams(a=2, shared=3),
        "inputs must have exactly the keys",
    ),
    "list": (
        lambda: pk.HedgedBlock(["a", "b"], 4, features=keras.layers.Dense(3)),
        [features(4, 3)],
        TypeError,
        "inputs must be a tensor or dict",
    ),
}
test_bad_inputs_are_refused = all_refused(lambda make, inputs: make()(inputs), CALLS)
