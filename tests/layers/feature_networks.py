"""Small blocks, and a feature network of two columns with its inputs."""

import keras
import numpy as np

import ple_keras as pk

ROWS, TASKS = 3, ["a", "b"]


def bottom(block=3, **kwargs):
    return pk.SharedBottomBlock(TASKS, block, **kwargs)


def symbols():
    item = keras.Input((), dtype="int32", name="item")
    return {"item": item, "price": keras.Input((1,), name="price")}


def columns():
    return {"item": np.array([1, 2, 9], "int32"), "price": np.float32([[1], [2], [9]])}


def network(**embedding):
    """Return a Functional model of an Embedding and a Dense layer."""
    inputs = symbols()
    item = keras.layers.Embedding(10, 3, name="embedding", **embedding)(inputs["item"])
    joined = keras.layers.Concatenate()([item, inputs["price"]])
    return keras.Model(inputs, keras.layers.Dense(4, "tanh", name="dense")(joined))
