"""All copies of a StreamFeatures share the network's layers with adapted state."""

import copy
import importlib.util
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, assert_same, numpy_of
from tests.layers.feature_networks import columns, network, normalization, symbols
from tests.models import chain
from tests.processes import ROOT
from tests.refusals import check_refused, table

BACKEND = keras.backend.backend()
TASKS = ["click", "buy"]
PRICES = np.array([[1.0], [5.0], [9.0]], "float32")


def sequential():
    inner = keras.Sequential([normalization(), keras.layers.Dense(3)])
    return keras.Sequential([inner, keras.layers.Dense(2)])


def discretized():
    layer = keras.layers.Discretization(num_bins=3, name="normalization")
    layer.adapt(PRICES)
    return keras.Sequential([layer, keras.layers.Embedding(4, 2), keras.layers.Flatten()])


def nested():
    inputs = keras.Input((1,))
    inside = keras.Model(inputs, keras.layers.Dense(2)(normalization()(inputs)))
    return keras.Sequential([inside, keras.layers.Dense(3)])


NETWORKS = {
    "functional": (network, symbols, columns),
    "sequential": (sequential, lambda: keras.Input((1,)), lambda: PRICES),
    "nested": (nested, lambda: keras.Input((1,)), lambda: PRICES),
    "discretization": (discretized, lambda: keras.Input((1,)), lambda: PRICES),
}
if not importlib.util.find_spec("tensorflow"):
    del NETWORKS["discretization"]  # its `adapt` uses TensorFlow


def adapted_inside(layer):
    return {id(x): x for x in layer._flatten_layers() if hasattr(x, "adapt")}


def model_of(block, symbols, in_a_block):
    layer = pk.StreamFeatures(TASKS, block, own=["click"], name="features")
    ple = pk.PLEBlock(1, TASKS, [3], name="ple")
    inputs = symbols()
    if in_a_block:
        return keras.Model(inputs, pk.SequentialBlock([layer, ple], name="block")(inputs))
    return keras.Model(inputs, ple(layer(inputs)))


def saved_and_loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def cloned(model, folder):
    return keras.models.clone_model(model)


def cloned_twice(model, folder):
    return cloned(cloned(model, folder), folder)


def with_loaded_weights(model, folder):
    model.save_weights(folder / "model.weights.h5")
    clone = cloned(model, folder)
    clone.load_weights(folder / "model.weights.h5")
    return clone


def deep_copied(model, folder):
    return copy.deepcopy(model)


def unpickled(model, folder):
    return pickle.loads(pickle.dumps(model))


def of_json(model, folder):
    return keras.models.model_from_json(model.to_json())


@pytest.mark.parametrize(
    "again",
    [
        *(saved_and_loaded, cloned, cloned_twice, with_loaded_weights),
        *(deep_copied, unpickled, of_json),
    ],
)
@pytest.mark.parametrize("in_a_block", [False, True])
@pytest.mark.parametrize(("block", "inputs", "x"), table(NETWORKS))
def test_every_copy_of_a_model_has_the_adapted_state_once(
    block, inputs, x, in_a_block, again, tmp_path
):
    model = model_of(block(), inputs, in_a_block)
    other = again(model, tmp_path)
    (before,), (after,) = (adapted_inside(each).values() for each in (model, other))
    assert after is not before
    expected = numpy_of(before(PRICES))
    assert not np.array_equal(expected, PRICES)
    np.testing.assert_array_equal(numpy_of(after(PRICES)), expected)
    assert sorted(w.path for w in other.weights) == sorted(w.path for w in model.weights)
    if again in (cloned, cloned_twice, of_json):
        other.set_weights(model.get_weights())
    assert_same(numpy_of(other(x())), numpy_of(model(x())), atol=0)


def test_the_state_of_a_model_is_in_its_file_once(tmp_path):
    h5py = pytest.importorskip("h5py")
    model_of(network(), symbols, False).save_weights(tmp_path / "model.weights.h5")
    places = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visit(places.append)
    weights = {p for p in places if "/normalization/vars/" in p}
    assert len(weights) == 3
    assert {p.split("/")[2] for p in weights} == {"stream-click"}
    assert any("stream-shared/" in p for p in places)


def test_the_template_and_its_adapted_layers_are_not_part_of_the_layer():
    template = network()
    layer = pk.StreamFeatures(TASKS, template)
    layer(columns())
    inside = {id(x) for x in layer._flatten_layers()}
    assert not inside & {id(x) for x in template._flatten_layers()}


def test_two_layers_of_one_network_are_saved_and_loaded(tmp_path):
    template, inputs = network(), symbols()
    streams = [pk.StreamFeatures(["a"], template, name=name)(inputs) for name in ("one", "two")]
    model = keras.Model(inputs, {"x": streams[0]["a"], "y": streams[1]["a"]})
    assert len({w.path for w in model.weights}) == len(model.weights)
    loaded = saved_and_loaded(model, tmp_path)
    assert sorted(w.path for w in loaded.weights) == sorted(w.path for w in model.weights)
    assert_same(numpy_of(loaded(columns())), numpy_of(model(columns())), atol=0)


def test_a_layer_that_is_built_by_training_has_the_adapted_state():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.features = pk.StreamFeatures(TASKS, network(), shared=False)

        def call(self, inputs):
            return self.features(inputs)

    model = Model()
    model.compile("sgd", dict.fromkeys(TASKS, "mse"), jit_compile=QUICK_JIT)
    model.fit(columns(), {task: np.ones((3, 4)) for task in TASKS}, verbose=0)
    (layer,) = adapted_inside(model.features).values()
    np.testing.assert_array_equal(numpy_of(layer(PRICES)), numpy_of(normalization()(PRICES)))


def test_adapting_the_shared_layer_again_changes_all_copies():
    layer = pk.StreamFeatures(TASKS, network(), own=["click"])
    before = numpy_of(layer(columns()))
    (adapted,) = adapted_inside(layer).values()
    adapted.adapt(np.array([[100.0], [300.0]], "float32"))
    after = numpy_of(layer(columns()))
    for stream in before:
        assert not np.array_equal(after[stream], before[stream])


PREDICT = """
import sys
import keras
import numpy as np
import ple_keras

folder = sys.argv[1]
model = keras.models.load_model(f"{folder}/model.keras")
x = {"item": np.array([1, 2, 9], "int32"), "price": np.array([[1.0], [2.0], [9.0]], "float32")}
np.savez(f"{folder}/predictions.npz", **model.predict(x, verbose=0))
"""


@pytest.mark.parametrize("in_a_block", [False, True])
def test_a_file_is_loaded_in_a_new_process(in_a_block, tmp_path):
    model = model_of(network(), symbols, in_a_block)
    model.save(tmp_path / "model.keras")
    subprocess.run([sys.executable, "-c", PREDICT, tmp_path], check=True, cwd=ROOT)
    predictions = dict(np.load(tmp_path / "predictions.npz"))
    assert_same(predictions, model.predict(columns(), verbose=0), atol=0)


# Refusals.


@keras.saving.register_keras_serializable(package="test_adapted_features")
class Normalized(keras.layers.Layer):
    """A subclassed network with a Normalization."""

    def __init__(self, mean=None, variance=None, **kwargs):
        super().__init__(**kwargs)
        self.given = {"mean": mean, "variance": variance}
        self.normalization = keras.layers.Normalization(mean=mean, variance=variance)
        self.dense = keras.layers.Dense(2)

    def build(self, input_shape):  # Keras on PyTorch gets NaN from constants of a symbolic call
        if not self.normalization.built:
            self.normalization.build(input_shape)
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(self.normalization(inputs))

    def get_config(self):
        return {**super().get_config(), **self.given}


def called(layer):
    layer(PRICES)
    return layer


def adapted_before_build():
    layer = Normalized()
    layer.normalization.adapt(PRICES)
    return layer


def adapted_and_built():
    return called(adapted_before_build())


def inside_a_wrapper():
    inputs = keras.Input((4, 1))
    return keras.Model(inputs, keras.layers.TimeDistributed(normalization())(inputs))


def inside_a_functional_model():
    return chain(adapted_and_built(), width=1)


LOST = [adapted_before_build, adapted_and_built, inside_a_wrapper, inside_a_functional_model]
LOST += [normalization, lambda: pk.SequentialBlock([normalization(), keras.layers.Dense(2)])]


@pytest.mark.parametrize("make", LOST)
def test_adapted_layers_that_copies_would_lose_are_refused(make):
    message = r"would lose the state of <Normalization.*Apply this layer to the inputs, before"
    check_refused(lambda: pk.StreamFeatures(TASKS, make()), ValueError, message)


def test_a_layer_that_is_not_adapted_is_refused_when_the_copies_are_built():
    block = keras.Sequential([keras.layers.Normalization(), keras.layers.Dense(2)])
    layer = pk.StreamFeatures(TASKS, block)
    message = r"must contain adapted layers only: call `adapt` of \[<Normalization"
    check_refused(lambda: layer(PRICES), ValueError, message)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has strings")
def test_a_lookup_without_a_vocabulary_is_refused():
    block = keras.Sequential([keras.layers.StringLookup(), keras.layers.Embedding(4, 2)])
    message = "must contain adapted layers whose state can be copied: .* Call `adapt` first"
    check_refused(lambda: pk.StreamFeatures(TASKS, block), ValueError, message)


@pytest.mark.parametrize("prepare", [lambda layer: layer, called], ids=["unbuilt", "built"])
def test_state_that_is_in_the_config_is_copied(prepare, tmp_path):
    layer = pk.StreamFeatures(TASKS, prepare(Normalized(5.0, 4.0)), name="features")
    model = chain(layer, width=1)
    assert len(adapted_inside(layer)) == 3
    x = np.array([[7.0]], "float32")
    for each in adapted_inside(layer).values():
        assert numpy_of(each(x)) == pytest.approx(1.0)
    loaded = saved_and_loaded(model, tmp_path)
    assert_same(numpy_of(loaded(x)), numpy_of(model(x)), atol=0)


def test_arguments_of_a_normalization_are_enough():
    network = keras.Sequential(
        [keras.layers.Normalization(mean=5.0, variance=4.0), keras.layers.Dense(2)]
    )
    layer = pk.StreamFeatures(TASKS, network)
    for stream, output in numpy_of(layer(PRICES)).items():
        kernel = numpy_of(getattr(layer, f"stream-{stream}").layers[1].kernel)
        np.testing.assert_allclose(output, (PRICES - 5.0) / 2.0 @ kernel, rtol=1e-5)


# Exports.


def served(model, form, folder, x):
    """Export a model, load the file without Keras and return its outputs."""
    if form == "torch":
        import torch

        shapes = {key: {0: torch.export.Dim("batch")} for key in x}
        model.export(folder / "m.pt2", format="torch", verbose=False, dynamic_shapes=shapes)
        tensors = {key: torch.from_numpy(value) for key, value in x.items()}
        return numpy_of(torch.export.load(folder / "m.pt2").module()(tensors))
    if form == "onnx":
        import onnxruntime

        model(x)
        model.export(folder / "m.onnx", format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(folder / "m.onnx")
        inputs = {each.name: x[each.name] for each in session.get_inputs()}
        return dict(zip(sorted(TASKS), session.run(None, inputs)))
    import tensorflow as tf

    model.export(folder / "m", format="tf_saved_model", verbose=False)
    artefact = tf.saved_model.load(str(folder / "m"))
    return {key: value.numpy() for key, value in artefact.serve(x).items()}


FORMS = {
    "tensorflow": {"saved_model": ["tensorflow"], "onnx": ["tf2onnx", "onnxruntime"]},
    "jax": {"saved_model": ["tensorflow"]},
    "torch": {"torch": ["torch"], "onnx": ["onnx", "onnxruntime"]},
}[BACKEND]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.skipif(
    BACKEND == "torch" and keras.__version__.startswith(("3.12.", "3.13.", "3.14.")),
    reason="before 3.15 Keras had no torch.export and no ONNX of dict inputs on PyTorch",
)
def test_exported_models_of_columns_predict_the_same(form, tmp_path):
    for package in FORMS[form]:
        pytest.importorskip(package)
    # On TensorFlow, Keras makes the state of a Normalization an input of any ONNX file.
    is_lost = (BACKEND, form) == ("tensorflow", "onnx")
    block = network(keras.layers.Rescaling(0.5)) if is_lost else network()
    model, x = model_of(block, symbols, False), columns()
    assert_same(served(model, form, tmp_path, x), numpy_of(model(x)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has strings")
def test_an_adapted_text_vectorization_is_shared():
    import tensorflow as tf

    text = keras.layers.TextVectorization(max_tokens=10, output_sequence_length=3)
    text.adapt(np.array(["a b c", "a b"]))
    inputs = keras.Input((1,), dtype="string")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(10, 2)(text(inputs)))
    layer = pk.StreamFeatures(["click"], keras.Model(inputs, embedded))
    first, second = layer(tf.constant([["a b"], ["c a"]]))["click"].numpy()
    assert first.shape == (6,)
    assert not np.array_equal(first, second)
