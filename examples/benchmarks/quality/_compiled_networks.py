"""Compiled networks, of which equal ones are trained in turn.

Keras traces each new model, and JAX compiles it, which takes longer than the training of a small
one. A network that equals an earlier one is trained in its place, from its own initial weights: the
results are the same.
"""

import json

import keras
import numpy as np
from _data import Split

MOST = 24  # networks in memory
_compiled: dict[str, tuple[keras.Model, list[np.ndarray]]] = {}


def compiled_like(model: keras.Model, train: Split) -> keras.Model:
    """Return a compiled model that equals a new one, and has its weights.

    Args:
        model: The new model, which is compiled and has not been trained.
        train: The rows that it will be trained on.
    """
    if keras.backend.backend() != "jax" or isinstance(model.optimizer, keras.optimizers.Adagrad):
        return model
    shapes = {name: x.shape for name, x in {**train.inputs, **train.labels}.items()}
    try:
        key = json.dumps([model.to_json(), str(model.optimizer.get_config()), str(shapes)])
    except TypeError:  # a layer has a function, which has no name to compare
        return model
    if key not in _compiled:
        if len(_compiled) == MOST:
            del _compiled[next(iter(_compiled))]  # the oldest
        model.optimizer.build(model.trainable_variables)
        state = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
        _compiled[key] = model, state
        return model
    earlier, state = _compiled[key]
    for variable, value in zip(earlier.variables, model.variables, strict=True):
        variable.assign(value)
    for variable, value in zip(earlier.optimizer.variables, state, strict=True):
        variable.assign(value)
    np.random.permutation(len(train))  # `fit` draws one order more for a new model
    return earlier
