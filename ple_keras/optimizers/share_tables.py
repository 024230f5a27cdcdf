"""Tables whose rows PyTorch processes exchange."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np

from ple_keras._typing import Tensor
from ple_keras.layers.table_marks import table_mark

MIN_ROWS = 4000  # of a table; the dense gradient of a smaller table takes less time


def share_tables(model: keras.Model) -> list[keras.Variable]:
    """Return the tables whose rows PyTorch processes exchange, instead of whole gradients.

    `DistributedDataParallel` does not support sparse gradients, but ignores parameters without
    `requires_grad`. `SparseAdagrad` then averages the rows of all processes itself:

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
        raise ValueError(
            "share_tables requires PyTorch. On other backends, devices exchange rows without it. "
            f"Received: KERAS_BACKEND={backend}"
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError("model must be compiled. Received: model.optimizer=None")
    model.optimizer.build(model.trainable_variables)
    marks = [(variable, table_mark(variable)) for variable in model.trainable_variables]
    return [v for v, m in marks if m is not None and m.share(m.rows >= MIN_ROWS, model.optimizer)]


def mean_over_processes(
    variables: Sequence[keras.Variable], gradients: Sequence[tuple[Tensor | None, Tensor]]
) -> list[tuple[Tensor | None, Tensor]]:
    """Return the gradients of shared tables, averaged over all processes.

    In each process, rows are unique. Processes are added in order, so that all have equal sums. All
    tables are exchanged as one. A dense gradient, such as that of a tied table, has all rows.

    Args:
        variables: The tables.
        gradients: For each table, the unique rows of its gradient and their values; None and a
            dense gradient; or None and None.
    """
    if not variables:
        return []
    import torch

    tables = [variable.value for variable in variables]
    width = max(table.shape[1] for table in tables)
    starts = np.cumsum([0, *(len(table) for table in tables)]).tolist()
    pad = torch.nn.functional.pad
    own = []
    for table, start, (rows, values) in zip(tables, starts, gradients):
        values = table[:0] if values is None else values
        rows = torch.arange(len(values), device=table.device) if rows is None else rows
        own.append((rows + start, pad(values, (0, width - values.shape[1]))))
    rows, values = map(torch.cat, zip(*own))
    counts = [int(count) for count in _gather(torch.tensor([len(rows)], device=rows.device))]
    missing = max(counts) - len(rows)
    every = zip(_gather(pad(rows, (0, missing))), _gather(pad(values, (0, 0, 0, missing))), counts)
    parts = [(rows[:count], values[:count]) for rows, values, count in every]
    found, positions = torch.unique(torch.cat([rows for rows, _ in parts]), return_inverse=True)
    means = values.new_zeros(len(found), width)
    for (_, values), places in zip(parts, positions.split(counts)):
        means.index_add_(0, places, values / len(counts))
    ends = torch.searchsorted(found, torch.tensor(starts[1:-1], device=rows.device)).tolist()
    return [
        (table_rows - start, mean[:, : table.shape[1]])
        for table, start, table_rows, mean in zip(
            tables, starts, found.tensor_split(ends), means.tensor_split(ends)
        )
    ]


def _gather(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, which must have the same shape."""
    import torch

    distributed: Any = import_module("torch.distributed")
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return parts
