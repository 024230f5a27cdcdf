"""One embedding table for the codes of several columns."""

from collections.abc import Mapping, Sequence

import numpy as np
from keras import ops

from ple_keras._keras.saving import register
from ple_keras._typing import Config, Tensor
from ple_keras.layers.hidden_ids import UNKNOWN
from ple_keras.layers.sparse_embedding import SparseEmbedding


@register
class ColumnTable(SparseEmbedding):
    """One table for the codes of several columns, each with an offset, `(B, n) -> (B, n, width)`.

    One lookup and one update take less time than one of each for every column. `SparseAdagrad` has
    a start for the rows of each column, since words of a text have smaller gradients. A code that
    is too large for its column is read as unknown, and not as a row of the next column.

    Args:
        rows: `{table: rows}`: the number of codes of each table of `Columns`, in the order in which
            their rows follow each other.
        tables: The table of each of the n codes.
        output_dim: The width.
        **kwargs: Arguments of `SparseEmbedding`.

    Attributes:
        rows: As above.
        tables: As above.
        sizes: The number of codes that each of the n inputs can have.
    """

    def __init__(
        self, rows: Mapping[str, int], tables: Sequence[str], output_dim: int, **kwargs: object
    ) -> None:
        super().__init__(sum(rows.values()), output_dim, **kwargs)
        self.rows, self.tables = dict(rows), list(tables)
        self._ends = np.cumsum([*rows.values()]).tolist() if len(rows) > 1 else None
        starts = dict(zip(rows, np.cumsum([0, *rows.values()])))
        self._offsets = np.array([starts[table] for table in tables], "int32")
        self.sizes = np.array([rows[table] for table in tables], "int32")

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the rows of the codes."""
        codes = ops.cast(inputs, "int32")
        codes = ops.where(ops.less(codes, self.sizes), codes, UNKNOWN)
        return super().call(ops.add(codes, self._offsets), training=training)

    def get_config(self) -> Config:
        config = {**super().get_config(), "rows": dict(self.rows), "tables": [*self.tables]}
        del config["input_dim"]
        return config
