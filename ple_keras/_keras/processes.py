"""Replicas and processes that train one model."""

from importlib import import_module

import keras
import numpy as np
from keras import ops

from ple_keras._keras.tensors import to_numpy


def replica_count() -> int:
    """Return the number of replicas of the current `tf.distribute` strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    tf = import_module("tensorflow")
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def has_several_processes() -> bool:
    """Return whether PyTorch's process group has several processes."""
    if keras.backend.backend() != "torch":
        return False
    distributed = import_module("torch.distributed")
    is_initialized: bool = distributed.is_available() and distributed.is_initialized()
    return is_initialized and distributed.get_world_size() > 1


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Return the sum over the processes of JAX, or of PyTorch's process group.

    Every process must call it at the same point with the same shape, since it waits for all others.
    On JAX, it does so only under a distribution: without one, a process works alone.
    """
    backend = import_module(keras.backend.backend())
    is_jax = keras.backend.backend() == "jax"
    if is_jax and keras.distribution.distribution() is not None and backend.process_count() > 1:
        multihost = import_module("jax.experimental.multihost_utils")
        values = multihost.process_allgather(values).sum(axis=0)
    if has_several_processes():
        values = ops.convert_to_tensor(values)  # a tensor on the device of the group
        backend.distributed.all_reduce(values)
    return to_numpy(values)
