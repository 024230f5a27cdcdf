"""Text in weights files, and a check that names have the same order as in the file."""

import hashlib
from collections.abc import Sequence

import keras
import numpy as np

from ple_keras._keras.internals import load_error
from ple_keras._typing import Store

NAMES_KEY = "names"


def write_text(store: Store, key: str, text: str) -> None:
    """Write text to a layer's part of a file, which holds only arrays."""
    store[key] = np.frombuffer(text.encode(), dtype=np.uint8)


def read_text(store: Store, key: str) -> str | None:
    """Return the text that `write_text` wrote, or None if there is none."""
    return np.asarray(store[key]).tobytes().decode() if key in list(store.keys()) else None


def save_names(store: Store, names: Sequence[str]) -> None:
    """Write the names that `check_names` compares."""
    write_text(store, NAMES_KEY, "\n".join(names))


def check_names(store: Store, names: Sequence[str], layer: keras.Layer) -> None:
    """Check that a file was written by a layer with the same names in the same order.

    Stacked kernels, the columns of the shared gate and the optimizer's moments have that order.
    Loading them in another order would swap tasks silently.

    Raises:
        ValueError: If the names or their order differ, or the file has no names.
    """
    text = read_text(store, NAMES_KEY)
    if text is None:
        reason = f"The file holds no names for {layer.name!r}. Received: names=None"
        raise load_error(layer, store, reason)
    saved = text.split("\n")
    if saved != list(names):
        reason = (
            f"The file was written by a layer with {saved}, in this order, but {layer.name!r} has "
            f"{list(names)}. Build the model with the tasks and experts of the file. "
            f"Received: names={saved}"
        )
        raise load_error(layer, store, reason)


def ordered_attribute(name: str, members: Sequence[str]) -> str:
    """Return the name of an attribute for weights in the order of `members`.

    With `skip_mismatch`, Keras ignores the error of `check_names` and loads the inner layers by
    attribute name. Weights in another order must have another name, so that they do not load.
    """
    digest = hashlib.sha256("\n".join(members).encode()).hexdigest()
    return f"{name}-{digest[:8]}"
