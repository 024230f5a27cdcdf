"""Marks on the variables of embedding tables, by which layers and optimizers find each other."""

import functools
import weakref
from importlib import import_module
from typing import Any

import keras

from ple_keras._checks import warn_user

_ATTRIBUTE = "ple_keras_table"  # of a variable; no file contains it


class _Mark:
    """The optimizer that takes gradients of rows for a table, if one does.

    The reference is weak. A model that is compiled again has another optimizer, which may not take
    such gradients.
    """

    def __init__(self, may_be_sparse: bool) -> None:
        self.may_be_sparse = may_be_sparse
        self.optimizer: weakref.ref[Any] | None = None


def mark_table(variable: keras.Variable, may_be_sparse: bool) -> None:
    """Mark the variable of an embedding table.

    Args:
        variable: The table.
        may_be_sparse: Whether the layer can give a gradient of the rows of a batch alone.
    """
    setattr(variable, _ATTRIBUTE, _Mark(may_be_sparse))


def is_table(variable: keras.Variable) -> bool:
    """Return whether a variable is marked as an embedding table."""
    return hasattr(variable, _ATTRIBUTE)


def take_row_gradients(variable: keras.Variable, optimizer: keras.Optimizer) -> None:
    """Declare that an optimizer takes gradients of rows for a variable, if it is a table."""
    if is_table(variable):
        getattr(variable, _ATTRIBUTE).optimizer = weakref.ref(optimizer)


def has_row_gradients(variable: keras.Variable) -> bool:
    """Return whether the gradient of a table shall have the rows of a batch only."""
    mark = getattr(variable, _ATTRIBUTE, None)
    if mark is None or not mark.may_be_sparse or mark.optimizer is None:
        return False
    return mark.optimizer() is not None and not _has_several_processes()


def _has_several_processes() -> bool:
    """Return whether PyTorch has a group of several processes, and warn once if it has.

    DistributedDataParallel takes sparse gradients of `torch.nn.Embedding` only.
    """
    if keras.backend.backend() != "torch":
        return False
    distributed: Any = import_module("torch.distributed")
    several = distributed.is_available() and distributed.is_initialized()
    if several and distributed.get_world_size() > 1:
        _warn_of_dense_gradients()
        return True
    return False


@functools.cache
def _warn_of_dense_gradients() -> None:
    warn_user(
        "With several processes on PyTorch, the gradient of a SparseEmbedding has all rows of the "
        "table, since DistributedDataParallel cannot add sparse gradients. A step takes longer "
        "with a larger table."
    )
