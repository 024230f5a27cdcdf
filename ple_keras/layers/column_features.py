"""The last layer of the networks of Columns, which ties a model to its columns."""

import re

import keras

from ple_keras._keras.layers import find_layers
from ple_keras._keras.saving import register


@register
class ColumnFeatures(keras.layers.Concatenate):
    """Concatenation of the features of columns, whose digest files and copies keep.

    Args:
        digest: The digest of the columns.
        **kwargs: Arguments of `keras.layers.Concatenate`. The default name contains the digest.
    """

    def __init__(self, digest: str, **kwargs: object) -> None:
        super().__init__(**{"name": f"columns_{digest}", **kwargs})
        self.digest = digest

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "digest": self.digest}


def columns_digest(layer: keras.Layer) -> str:
    """Return the digest of the columns whose network, or copies of it, a layer contains.

    The text is empty without such a network, and has commas between the digests of different
    columns. Networks of version 0.6.0 have the digest only in the name of a `Concatenate` layer.
    """
    layers = find_layers(layer, keras.layers.Concatenate)
    named = {getattr(each, "digest", each.name.removeprefix("columns_")) for each in layers}
    return ",".join(sorted(filter(re.compile("[0-9a-f]{16}").fullmatch, named)))
