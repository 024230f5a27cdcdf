"""Small models that many tests train, observe, copy or save."""

import copy

import keras
import numpy as np

import ple_keras as pk
from ple_keras._keras.layers import find_layers
from tests.helpers import QUICK_JIT, features


def chained(layers, outputs):
    for layer in layers:
        outputs = layer(outputs)
    return outputs


def chain(*layers, width=3):
    """Return a functional model of consecutive layers: a MultiTaskModel if the last has heads."""
    inputs = keras.Input((width,))
    outputs = chained(layers, inputs)
    has_heads = bool(find_layers(layers[-1], pk.TaskHeads))
    return (pk.MultiTaskModel if has_heads else keras.Model)(inputs, outputs)


def branched(heads, expert=(3,)):
    """Return a model of a HedgedBlock and heads."""
    return chain(pk.HedgedBlock(heads, expert), heads)


def heads_alone(heads, width=3):
    """Return a model that passes its input to every head."""
    inputs = keras.Input((width,))
    return pk.MultiTaskModel(inputs, heads(dict.fromkeys(heads.task_names, inputs)))


def heads_of(model):
    """Return the TaskHeads of a model."""
    return find_layers(model, pk.TaskHeads)[0]


def compiled(model, optimizer="sgd", **kwargs):
    """Compile a model with heads. TensorFlow takes longer to trace few steps than to run them."""
    run_eagerly = keras.backend.backend() == "tensorflow" and "jit_compile" not in kwargs
    model.compile(optimizer, **{"jit_compile": QUICK_JIT, "run_eagerly": run_eagerly, **kwargs})
    return model


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(pk.MultiTaskTraining, keras.Model):
    """Subclassed model of consecutive layers, which its config contains. It is built by a call."""

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.chain = layers

    def call(self, inputs, training=None):
        for layer in self.chain:  # Keras does not pass `training` on in a step of JAX
            options = {"training": training} if layer._call_has_training_arg else {}
            inputs = layer(inputs, **options)
        return inputs

    def get_config(self):
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.chain]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


def assert_unique_paths(model):
    """Assert that each weight has its own path, and is a parameter on PyTorch."""
    assert len({weight.path for weight in model.weights}) == len(model.weights)
    if keras.backend.backend() == "torch":
        variables = {id(variable.value) for variable in model.variables}
        assert {id(parameter) for parameter in model.parameters()} == variables


# Copies of a model. Each function takes a folder for files.


def loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def cloned(model, folder):
    return keras.models.clone_model(model)


def deep_copied(model, folder):
    return copy.deepcopy(model)


def of_json(model, folder):
    return keras.models.model_from_json(model.to_json())


# Joint training of the tasks click and time.


def click_and_time(loss_weighting="uncertainty", learning_rate=0.05, gate_dropout=0.0, **kwargs):
    """Return a model of two tasks with learned or scheduled loss weights, equal in every call."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads(
        [pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=2.0)],
        loss_weighting=loss_weighting,
    )
    model = chain(pk.PLEBlock(1, heads, [4], gate_kwargs={"dropout": gate_dropout}), heads)
    return compiled(model, keras.optimizers.Adam(learning_rate), **kwargs)


def clicks_and_times():
    """Return 12 rows. A third of the times are missing."""
    y = {"click": np.arange(12) % 2, "time": np.arange(12, dtype="float32")[:, None] / 6}
    y["time"][::3] = np.nan
    return features(12, 3), y


# Gates that keep statistics, for the tasks click and buy.

TASKS = ["click", "buy"]
ROWS = 22  # the last batch of 8 is smaller


def tracked_block(make=pk.PLEBlock, **kwargs):
    """Return a block whose gates keep statistics."""
    kwargs = {"enable_gate_weights_metrics": True, "name": "ple", **kwargs}
    if make is pk.PLEBlock:
        return make(2, TASKS, [3], num_task_experts=2, **kwargs)
    if make is pk.MMoEBlock:
        return make(TASKS, [3], 3, **kwargs)
    return make(TASKS, [3], add_shared_gate=False, **kwargs)


def click_and_buy_heads():
    return pk.TaskHeads([pk.BinaryHead(task, metrics=[]) for task in TASKS], name="heads")


def functional(layer):
    """Return a MultiTaskModel of a block and heads."""
    return chain(layer, click_and_buy_heads(), width=4)


def subclassed(layer):
    return Subclassed([layer, click_and_buy_heads()])


def nested(layer):
    """Return a MultiTaskModel that is nested in another one, after a Dense layer."""
    return chain(keras.layers.Dense(4), functional(layer), width=4)


def clicks_and_buys(rows=ROWS, seed=0):
    x = features(rows, 4, seed=seed)
    return x, {task: x[:, i] > 0 for i, task in enumerate(TASKS)}
