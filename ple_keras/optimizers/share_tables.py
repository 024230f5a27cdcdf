"""Tables whose rows PyTorch processes exchange."""

from collections.abc import Sequence
from importlib import import_module

import keras
import numpy as np
from keras import ops

from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import Tensor
from ple_keras.layers.row_updates import row_updates

MIN_ROWS = 4000  # of a table; the dense gradient of a smaller table takes less time


def share_tables(model: keras.Model) -> list[keras.Variable]:
    """Return the tables whose rows PyTorch processes exchange, instead of whole gradients.

    `DistributedDataParallel` does not support sparse gradients, but ignores parameters without
    `requires_grad`. `SparseAdagrad` then averages the rows of all processes itself, in host memory:

        for table in pk.share_tables(model):
            table.value.requires_grad_(False)
        parallel = DistributedDataParallel(model)
        for table in pk.share_tables(model):
            table.value.requires_grad_(True)

    Call it in every process, after `compile` and before the first step. A model that is compiled
    again needs new calls, and a new `DistributedDataParallel`.

    Args:
        model: A compiled model with SparseAdagrad for its tables (see `table_optimizer`). The call
            builds its optimizer.

    Returns:
        The variables of the tables of at least 4,000 rows that SparseAdagrad trains by rows.

    Raises:
        ValueError: If the model is not compiled, or the backend is not PyTorch.

    Example:

    >>> inputs = keras.Input((), dtype="int32")
    >>> model = keras.Model(inputs, SparseEmbedding(5000, 4, name="user")(inputs))
    >>> model.compile(table_optimizer("adam"), "mse")
    >>> [table.path for table in share_tables(model)]
    ['user/embeddings']
    """
    backend = keras.backend.backend()
    if backend != "torch":
        raise ValueError(f"share_tables is for PyTorch alone. Received: KERAS_BACKEND={backend}")
    if getattr(model, "optimizer", None) is None:
        raise ValueError("model must be compiled. Received: model.optimizer=None")
    model.optimizer.build(model.trainable_variables)
    tables = []
    for variable in model.trainable_variables:
        updates = row_updates(variable)
        if updates is not None:
            is_large = updates.may_be_sparse and updates.rows >= MIN_ROWS
            updates.sharing = updates.row_optimizers(model.optimizer) if is_large else set()
            tables += [variable] if updates.sharing else []
    return tables


def mean_over_processes(
    variables: Sequence[keras.Variable], gradients: Sequence[tuple[Tensor | None, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Return the gradients of shared tables, averaged over all processes.

    In each process, rows are unique. Processes are added in order, so that all have equal sums. A
    dense gradient, as of a tied table, has all rows.

    Args:
        variables: The tables.
        gradients: For each table, the unique rows of its gradient and their values; None and a
            dense gradient; or None and None.
    """
    own = []
    for variable, (rows, values) in zip(variables, gradients):
        values = to_numpy(variable.value[:0] if values is None else values)
        own.append((np.arange(len(values)) if rows is None else to_numpy(rows), values))
    distributed = import_module("torch.distributed")
    every: list[Tensor] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, own)
    means = []
    for parts in zip(*every):
        found = np.unique(np.concatenate([rows for rows, _ in parts]))
        mean = np.zeros((len(found), parts[0][1].shape[1]), parts[0][1].dtype)
        for rows, values in parts:
            mean[np.searchsorted(found, rows)] += values / len(parts)
        means.append((ops.convert_to_tensor(found), ops.convert_to_tensor(mean)))
    return means
