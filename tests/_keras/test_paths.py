"""Created, loaded, cloned and deep-copied models have the same unique weight paths."""

import itertools

import keras
import pytest

import ple_keras as pk
from tests.helpers import features, once
from tests.models import assert_unique_paths, chain, cloned, deep_copied, loaded
from tests.templates import ResidualExpert

pytestmark = once


def heads(*tasks, **kwargs):
    return pk.TaskHeads([pk.BinaryHead(task, tower=[3]) for task in tasks], **kwargs)


def ple_and_heads():
    both = heads("a", "b", loss_weighting="uncertainty", name="task_heads")
    ple = pk.PLEBlock(2, both, [4], gate_block=[3], enable_gate_weights_metrics=True, name="ple")
    return chain(ple, both, width=6)


def hedged_block_and_heads():
    both = heads("a", "b", name="task_heads")
    return chain(pk.HedgedBlock(both, [4], name="hedged"), both, width=6)


def blocks_in_blocks():
    inner = pk.SequentialBlock([pk.PLEBlock(1, ["a"], ResidualExpert(3), name="ple")], name="inner")
    wrapped = keras.layers.TimeDistributed(keras.layers.Dense(4, name="dense"), name="wrapped")
    outer = pk.SequentialBlock([wrapped, keras.layers.GlobalMaxPooling1D(), inner], name="outer")
    inputs = keras.Input((5, 6))
    return keras.Model(inputs, outer(inputs))


def streams_of(*layers):
    block = pk.StreamFeatures(["a", "b"], *layers, own=["b"], name="streams")
    return pk.SequentialBlock([block, pk.PLEBlock(1, ["a", "b"], [3], name="ple")], name="block")


def streams_of_a_sequential_network():
    inside = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])
    return chain(streams_of(keras.Sequential([inside, keras.layers.Dense(3)])), width=6)


@keras.saving.register_keras_serializable(package="test_paths")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads("a", "b", name="task_heads")
        self.user = pk.PLEBlock(1, self.heads, [4], name="user")
        self.item = pk.PLEBlock(1, self.heads, ResidualExpert(4), name="item")

    def call(self, inputs):
        user, item = self.user(inputs), self.item(inputs)
        return self.heads({task: user[task] + item[task] for task in user})


def subclassed_model():
    model = Subclassed(name="subclassed")
    model(features(2, 6))
    return model


MODELS = (
    *(ple_and_heads, hedged_block_and_heads, blocks_in_blocks, streams_of_a_sequential_network),
    subclassed_model,
)


def paths(model):
    """Return the paths of all weights without the name of the model.

    Keras itself loses the name of a loaded subclassed or Sequential model.
    """
    return [weight.path.removeprefix(f"{model.name}/") for weight in model.weights]


@pytest.mark.parametrize(("make", "copied"), [*zip(MODELS, itertools.cycle([cloned, deep_copied]))])
def test_loaded_models_and_clones_or_copies_have_the_same_unique_paths(make, copied, tmp_path):
    model = make()
    assert_unique_paths(model)
    if isinstance(model, Subclassed):  # Keras refuses to clone it
        copied = deep_copied
    for again in (loaded, copied):
        other = again(model, tmp_path)
        assert_unique_paths(other)
        assert sorted(paths(other)) == sorted(paths(model))
