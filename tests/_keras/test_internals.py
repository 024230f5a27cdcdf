"""Undocumented behavior of Keras that the package needs. A test fails if Keras changes it."""

import ast
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras._keras import internals
from tests.helpers import numpy_of, once
from tests.models import chain

PACKAGE = Path(pk.__file__).parent


def objects_of_keras():
    """Return an object of each Keras class that the package subclasses or inspects."""
    model = chain(keras.layers.Dense(2))
    model.compile("adam", "mse")
    sequential = keras.Sequential([keras.layers.Dense(1)])
    return [
        model,
        model.optimizer,
        sequential,
        keras.layers.Dense(1),
        keras.layers.Embedding(1, 1, name="table"),
        keras.optimizers.Adagrad(),
        keras.metrics.AUC(),
        keras.losses.MeanSquaredError(),
        keras.Variable(1.0),
        keras.KerasTensor((1,)),
        keras.callbacks.Callback(),
        keras.initializers.Zeros(),
        keras.regularizers.L2(),
        keras.random.SeedGenerator(1),
        keras.utils.PyDataset(),
    ]


def private_names_of_keras():
    names = {name for thing in objects_of_keras() for name in dir(thing)} | {"_keras_mask"}
    names.discard("_version")  # of PyTorch's modules; PyTorch counts the changes of a tensor in it
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def assigned(line):
    """Return the names that a line of a class assigns."""
    targets = getattr(line, "targets", [getattr(line, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def uses(path, private):
    """Yield the uses of `keras.src` and of private names of Keras in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module)) if module.startswith("keras.src"):
                yield module
            case ast.Import(names=names):
                yield from (x.name for x in names if x.name.startswith("keras.src"))
            case ast.Attribute(value=ast.Name(id="keras"), attr="src"):
                yield "keras.src"
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) if name in private:
                yield name
            case ast.ClassDef(body=body):
                names = [name for line in body for name in assigned(line)]
                yield from (name for name in names if name in private)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, name, *_]):
                if isinstance(name, ast.Constant) and name.value in private:
                    yield name.value


@once
def test_no_other_module_uses_private_names_of_keras():
    private = private_names_of_keras()
    assert {"_layers", "_untrack_variable"} <= private
    of_internals = {*uses(Path(internals.__file__), private)}
    assert {"keras.src.utils", "_flatten_layers"} <= of_internals
    found = {
        str(path.relative_to(PACKAGE)): sorted({*uses(path, private)})
        for path in PACKAGE.rglob("*.py")
        if path != Path(internals.__file__)
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_children_are_the_direct_inner_layers_in_order():
    inner = keras.Sequential([keras.layers.Dense(1), keras.layers.Dense(2)])

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.several = [keras.layers.Dense(3), inner]
            self.again = inner
            self.last = {"key": keras.layers.Dense(4)}

    outer = Outer()
    assert internals.children(outer) == [*outer.several, outer.last["key"]]
    assert internals.children(inner) == inner.layers


def test_lists_and_stored_values_show_new_variables_and_tensors():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    lists = internals.tracked_lists(layer)
    before = sum(map(len, lists))
    values = [*internals.stored_values(layer.weights)]
    assert all(value is weight.value for value, weight in zip(values, layer.weights))
    layer.enable_lora(1)
    assert sum(map(len, lists)) == before + 2
    assert internals.tracked_lists(keras.metrics.Mean()) != [[]]


def test_masks_are_read_attached_and_removed():
    masked = keras.layers.Masking()(keras.ops.convert_to_tensor([[[0.0], [1.0]]]))
    np.testing.assert_array_equal(internals.get_mask(masked), [[False, True]])
    x, mask = keras.ops.ones((1, 2, 1)), keras.ops.convert_to_tensor([[False, True]])
    assert internals.get_mask(x) is None
    internals.set_mask(x, mask)
    assert internals.get_mask(x) is mask
    np.testing.assert_allclose(keras.layers.GlobalAveragePooling1D()(x), [[1.0]])
    internals.set_mask(x, None)
    assert internals.get_mask(x) is None


def test_layers_keep_the_masks_of_their_inputs():
    x, mask = keras.ops.ones((1, 2, 4)), keras.ops.convert_to_tensor([[True, False]])
    internals.set_mask(x, mask)
    attention = keras.layers.MultiHeadAttention(1, 4)
    internals.call_keeping_masks(lambda inputs: attention(inputs, inputs), x)
    assert internals.get_mask(x) is mask
    attention(x, x)
    assert internals.get_mask(x) is None


def test_the_outermost_layer_contains_the_current_call():
    found = []
    layer = keras.layers.Lambda(lambda x: found.append(internals.outermost_layer()) or x)
    model = keras.Sequential([keras.Sequential([layer])])
    model(np.ones((1, 2)))
    assert found[-1] is model
    assert internals.outermost_layer() is None


def test_what_a_layer_attaches_to_its_output_is_there_in_the_loss():
    class Attaches(keras.layers.Layer):
        def call(self, inputs):
            outputs = inputs + 0.0
            internals.set_attached(outputs, "_attached", [inputs])
            return outputs

    class Reads(keras.Model):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            found.append(internals.attached(y_pred, "_attached"))
            return keras.ops.mean(y_pred)

    found, inputs = [], keras.Input((3,))
    model = Reads(inputs, Attaches()(keras.layers.Dense(1)(inputs)))
    model.compile("sgd")
    model.fit(np.ones((1, 3)), np.ones((1, 1)), verbose=0)
    assert len(found[-1]) == 1
    copied = Attaches()(keras.ops.ones((1, 3))) + 0.0
    assert internals.attached(copied, "_attached") is None
    assert internals.attached(np.ones(3), "_attached") is None


def test_serialized_losses_have_the_arguments_that_their_configs_lack():
    """If the config has them, Keras has changed, and `serialize_loss` may be unnecessary."""
    loss, (y_true, y_pred) = keras.losses.Huber(0.1), np.array([[[0.0]], [[5.0]]])
    assert "delta" not in loss.get_config()
    copy = keras.saving.deserialize_keras_object(internals.serialize_loss(loss))
    assert float(copy(y_true, y_pred)) == float(loss(y_true, y_pred)) != 4.5


def test_the_source_of_a_symbolic_tensor_is_its_layer():
    inputs = keras.Input((1,))
    outputs = {"b": keras.layers.Dense(1)(inputs), "a": keras.layers.Dense(1)(inputs)}
    inner = keras.Model(inputs, outputs)
    for key, tensor in inner(keras.Input((1,))).items():
        layer, index = internals.tensor_source(tensor)
        assert layer is inner
        assert inner.outputs[index] is outputs[key]


def test_a_graph_runs_with_other_functions_for_its_operations():
    inputs = {"a": keras.Input((2,)), "b": keras.Input((2,))}
    added = keras.layers.Add(name="add")([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, {"sum": added, "relu": keras.layers.ReLU(name="relu")(added)})
    names = []

    def of_operation(operation):
        names.append(operation.name)
        return operation

    x = {"b": np.full((1, 2), -3.0), "a": np.ones((1, 2))}
    found = internals.run_graph(model, x, of_operation)
    assert names == ["add", "relu"]
    assert {key: numpy_of(value).tolist() for key, value in found.items()} == {
        "sum": [[-2.0, -2.0]],
        "relu": [[0.0, 0.0]],
    }


@keras.saving.register_keras_serializable()
class Refusing(keras.layers.Layer):
    """A layer that raises an error each time Keras tries to load it."""

    def build(self, input_shape):
        self.attempts = []

    def call(self, inputs):
        return inputs

    def save_own_variables(self, store):
        store["value"] = np.ones(1)

    def load_own_variables(self, store):
        self.attempts.append(list(store.keys()))
        raise internals.load_error(self, store, f"attempt with {self.attempts[-1]}")


def test_keras_retries_a_layer_that_fails_to_load_and_the_first_error_is_kept(tmp_path):
    layer = Refusing()
    model = chain(layer)
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match=r"attempt with \['value'\]"):
        model.load_weights(tmp_path / "m.weights.h5")
    assert layer.attempts == [["value"], ["value"], []]


def test_without_build_keys_deserializes_layers_unbuilt():
    dense = keras.layers.Dense(1)
    dense.build((None, 2))
    config = keras.saving.serialize_keras_object(dense)
    assert "build_config" in config
    assert not keras.saving.deserialize_keras_object(internals.without_build_keys(config)).built
    sequential = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    config = sequential.get_config()
    assert sequential.from_config(config).built
    config = {**internals.without_build_keys(config)}
    config["layers"] = [internals.without_build_keys(layer) for layer in config["layers"]]
    assert not sequential.from_config(config).built


def test_a_functional_model_is_recognized_by_its_config():
    models = [chain(keras.layers.Dense(1)), keras.Sequential()]
    configs = map(keras.saving.serialize_keras_object, models)
    assert [*map(internals.is_functional_config, configs)] == [True, False]


def test_only_functional_models_have_functional_outputs():
    class Model(keras.Model):
        def call(self, inputs):
            return {"a": inputs}

    class Given(Model):
        """Keras changes the base of a class that gets inputs and outputs."""

    inputs, called = keras.Input((1,)), Model()
    outputs = {"a": inputs + 1, "b": inputs}
    assert internals.functional_outputs(keras.Model(inputs, outputs)) == outputs
    called(inputs)
    sequential = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    for model in (Model(), called, sequential, Given(inputs, outputs)):
        assert internals.functional_outputs(model) is None


def test_one_shared_object_id_in_a_file_gives_one_object(tmp_path):
    inner = keras.layers.Activation("relu")
    outer = [keras.layers.TimeDistributed(inner) for _ in range(3)]
    keras.Sequential([keras.Input((3, 2)), *outer]).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        configs = json.loads(file.read("config.json"))["config"]["layers"]
    # Keras can omit the id at the first use of an object.
    second, third = (config["config"]["layer"] for config in configs[-2:])
    assert second[internals.SHARED_ID_KEY] == third[internals.SHARED_ID_KEY]
    _, second, third = keras.saving.load_model(tmp_path / "model.keras").layers
    assert second.layer is third.layer


@once
def test_classes_and_functions_of_keras_are_recognized():
    from_keras = (keras.layers.Dense, keras.losses.mean_squared_error, keras.losses.Huber)
    assert all(map(internals.is_from_keras, from_keras))
    assert not any(map(internals.is_from_keras, (pk.ExpertBlock, len)))


def test_optimizers_know_the_index_of_a_variable():
    first, second = keras.Variable([1.0]), keras.Variable([2.0, 3.0])
    optimizer = keras.optimizers.Adagrad()
    optimizer.build([first, second])
    assert internals.variable_index(optimizer, second) == 1
