"""Work of callbacks in several processes that train one model."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import keras
import numpy as np


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """Return the sum over all processes of PyTorch's process group; a copy without a group.

    Every process must call it at the same point with the same shape, since it waits for all.
    """
    total = np.array(values)
    if keras.backend.backend() != "torch":
        return total
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return total
    shared = keras.ops.convert_to_tensor(total)  # on the device of the group
    distributed.all_reduce(shared)
    return np.asarray(keras.ops.convert_to_numpy(shared))


@contextmanager
def predictions_in_each_process() -> Iterator[None]:
    """Let each process of JAX predict rows of its own.

    Under a distribution of several processes, `Model.predict` fails: it takes the rows of a process
    for its part of a batch, and then reads the predictions of the other parts.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or _number_of_jax_processes() == 1:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def _number_of_jax_processes() -> int:
    if keras.backend.backend() != "jax":
        return 1
    jax: Any = import_module("jax")
    return int(jax.process_count())
