"""Texts in files, and the order of names, so that a file of another order is refused."""

import hashlib
from collections.abc import Sequence

import keras
import numpy as np

from ple_keras._keras.internals import refusal
from ple_keras._typing import Store

NAMES_KEY = "names"


def write_text(store: Store, key: str, text: str) -> None:
    """Write a text into a layer's part of a file, which takes arrays alone."""
    store[key] = np.frombuffer(text.encode(), dtype=np.uint8)


def read_text(store: Store, key: str) -> str | None:
    """Return a text that `write_text` wrote; None if there is none."""
    return np.asarray(store[key]).tobytes().decode() if key in list(store.keys()) else None


def save_names(store: Store, names: Sequence[str]) -> None:
    """Write the names whose order `check_names` compares."""
    write_text(store, NAMES_KEY, "\n".join(names))


def check_names(store: Store, names: Sequence[str], layer: keras.Layer) -> None:
    """Refuse a file written by a layer with other names, or the same in another order.

    Stacked kernels, the columns of the shared gate and the optimizer's moments lie in that
    order; loaded into another they would swap tasks without a word.
    """
    text = read_text(store, NAMES_KEY)
    if text is None:
        reason = f"The file holds no names for {layer.name!r}. Received: names=None"
        raise refusal(layer, store, reason)
    saved = text.split("\n")
    if saved != list(names):
        reason = (
            f"The file was written by a layer with {saved}, in this order, but {layer.name!r} has "
            f"{list(names)}. Build the model with the tasks and experts of the file. "
            f"Received: names={saved}"
        )
        raise refusal(layer, store, reason)


def ordered_attribute(name: str, members: Sequence[str]) -> str:
    """An attribute for weights that lie in the order of `members`.

    With `skip_mismatch` Keras goes on behind a refusal, into the layers inside, and finds them by
    their attributes: those of another order must not be found.
    """
    digest = hashlib.sha256("\n".join(members).encode()).hexdigest()
    return f"{name}-{digest[:8]}"
