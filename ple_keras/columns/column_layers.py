"""The layers of the networks of Columns."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from ple_keras._keras.layers import find_layers
from ple_keras._keras.saving import register
from ple_keras._typing import Config, Tensor
from ple_keras.columns.columns import UNKNOWN
from ple_keras.layers.sparse_embedding import SparseEmbedding


@register
class ColumnTable(SparseEmbedding):
    """One table for the codes of several columns, each with an offset, `(B, n) -> (B, n, width)`.

    A single lookup and update is faster than one for every column. `SparseAdagrad` has a start
    value for the rows of each column, since words of a text have smaller gradients. A code that is
    too large for its column is read as unknown, and not as a row of the next column.

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


@register
class ColumnFeatures(keras.layers.Concatenate):
    """Concatenation of the features of columns, whose digest files and copies keep.

    Args:
        digest: The digest of the columns.
        packed: The columns of each packed input, for messages.
        **kwargs: Arguments of `keras.layers.Concatenate`. The default name contains the digest.
    """

    def __init__(
        self, digest: str, packed: Mapping[str, Sequence[str]] | None = None, **kwargs: object
    ) -> None:
        super().__init__(**{"name": f"columns_{digest}", **kwargs})
        self.digest, self.packed = digest, {k: [*names] for k, names in (packed or {}).items()}

    def get_config(self) -> Config:
        return {**super().get_config(), "digest": self.digest, "packed": dict(self.packed)}


def columns_digest(layer: keras.Layer) -> str:
    """Return the digest of the columns whose network, or copies of it, a layer contains.

    The text is empty without such a network, and has commas between the digests of different
    columns.
    """
    return ",".join(sorted({each.digest for each in find_layers(layer, ColumnFeatures)}))
