"""The interface of layers and optimizers that update only some rows of a table."""

import weakref
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, cast

import keras

from ple_keras._keras.internals import outermost_layer
from ple_keras._keras.processes import has_several_processes
from ple_keras._typing import Nested, Tensor

# The ids of each lookup on JAX, `(ids,)`, and the gradients of their rows, `(ids, columns)`.
RowGradients = list[tuple[Tensor, Tensor]]


class DeferredUpdates:
    """The updates of tables after the graph of a traced step on PyTorch.

    A graph can't update a number of rows that depends on the ids. The step creates this object, and
    the gradients of its tables refer to it, since Keras passes an optimizer nothing else.

    Attributes:
        calls: The optimizers, each with its gradients and variables. The gradient of a table is a
            list (see `RowGradients`).
    """

    def __init__(self) -> None:
        self.calls: list[tuple[keras.Optimizer, list[Nested], Any]] = []

    def add(self, optimizer: keras.Optimizer, gradients: Iterable[Nested], variables: Any) -> None:
        """Add a call of an optimizer."""
        found = [[*x] if isinstance(x, RecordedRows) else x for x in gradients]
        self.calls.append((optimizer, found, variables))


class RecordedRows(RowGradients):
    """The gradient of a table in a traced step on PyTorch: the ids and gradients of its lookups.

    An optimizer that receives it adds its call to `deferred`.
    """

    def __init__(self, lookups: RowGradients, deferred: DeferredUpdates) -> None:
        super().__init__(lookups)
        self.deferred = deferred


class RowUpdates:
    """The optimizers that update a table, and on JAX the rows of its gradient.

    The references are weak: a model that is compiled again has a different optimizer, which might
    not support such gradients.

    Args:
        rows: The number of rows of the table.
        may_be_sparse: Whether the layer can compute a gradient of only the rows of a batch.
        ends: The end of the rows of each column of a ColumnTable; None for other tables.
    """

    def __init__(self, rows: int, may_be_sparse: bool, ends: Sequence[int] | None = None) -> None:
        self.rows, self.may_be_sparse, self.ends = rows, may_be_sparse, ends
        self.optimizers: weakref.WeakSet[keras.Optimizer] = weakref.WeakSet()
        self._gradient: tuple[weakref.ref[Tensor], RowGradients] | None = None

    def remember(self, gradient: Tensor, rows: RowGradients) -> None:
        """Store the rows of a gradient on JAX, for the optimizer that gets this very tensor."""
        self._gradient = weakref.ref(gradient, lambda _: self.forget()), rows

    def rows_of(self, gradient: Tensor) -> RowGradients | None:
        """Return the rows of a gradient; None if it is not the last stored tensor."""
        stored = self._gradient
        return stored[1] if stored and stored[0]() is gradient else None

    def forget(self) -> None:
        """Remove the stored rows."""
        self._gradient = None


def row_updates(variable: keras.Variable) -> RowUpdates | None:
    """Return the RowUpdates of a SparseEmbedding's table; None for any other variable."""
    return cast(RowUpdates | None, getattr(variable, "ple_keras_table", None))


def has_row_gradients(variable: keras.Variable) -> bool:
    """Return whether the gradient of a table should have only the rows of a batch.

    On PyTorch, other optimizers do not support such gradients: if the called model is compiled, its
    own optimizer must support them, and `DistributedDataParallel` does not. On JAX, a gradient has
    all rows for other optimizers.
    """
    updates = row_updates(variable)
    if updates is None or not updates.may_be_sparse or has_several_processes():
        return False
    optimizers = {*updates.optimizers}
    if keras.backend.backend() == "torch":
        optimizer = getattr(outermost_layer(), "optimizer", None)
        if optimizer is not None:  # one optimizer, or several
            optimizers &= {*getattr(optimizer, "optimizers", [optimizer])}
    return bool(optimizers)


def replica_variable(variable: keras.Variable, like: Tensor | None = None) -> Tensor:
    """Return the variable of one replica of `tf.distribute`.

    `tf.gather` of the mirrored variable would read the whole table.

    Args:
        variable: A Keras variable.
        like: A variable of the replica; None for the current replica.
    """
    tf = import_module("tensorflow")
    components = tf.distribute.get_strategy().experimental_local_results(variable.value)
    if like is not None:
        return next(each for each in components if each.device == like.device)
    context = tf.distribute.get_replica_context()  # None outside of a step
    replica = context and tf.get_static_value(context.replica_id_in_sync_group)
    if replica is None or len(components) == 1:
        return variable.value
    return components[replica % len(components)]
