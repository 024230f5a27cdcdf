"""The last layer of the networks of Columns, which ties a model to its columns."""

import re
from collections.abc import Mapping, Sequence

import keras

from ple_keras._keras.layers import find_layers
from ple_keras._keras.saving import register


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

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "digest": self.digest, "packed": dict(self.packed)}


def columns_digest(layer: keras.Layer) -> str:
    """Return the digest of the columns whose network, or copies of it, a layer contains.

    The text is empty without such a network, and has commas between the digests of different
    columns. Networks of version 0.6.0 have the digest only in the name of a `Concatenate` layer.
    """
    layers = find_layers(layer, keras.layers.Concatenate)
    named = {getattr(each, "digest", each.name.removeprefix("columns_")) for each in layers}
    return ",".join(sorted(filter(re.compile("[0-9a-f]{16}").fullmatch, named)))
