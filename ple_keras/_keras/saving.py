"""A block's order of names goes into its file, so that another order is refused."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

KEY = "names"


def save_names(store: Any, names: Sequence[str]) -> None:
    store[KEY] = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)


def check_names(store: Any, names: Sequence[str], layer: Any) -> None:
    """Refuse a file written by a layer with other names, or the same in another order.

    Stacked kernels, the columns of the shared gate and the optimizer's moments lie in that
    order; loaded into another they would swap tasks without a word.
    """
    if KEY in list(store.keys()):
        saved = np.asarray(store[KEY]).tobytes().decode().split("\n")
        if saved == list(names):
            return
        layer._refusal = (
            f"The file was written by a layer with {saved}, in this order, but {layer.name!r} has "
            f"{list(names)}. Build the model with the tasks and experts of the file. "
            f"Received: names={saved}"
        )
    # Keras tries a refused layer again by other ways, with an empty store; the last error counts.
    empty = f"The file holds no names for {layer.name!r}. Received: names=None"
    raise ValueError(getattr(layer, "_refusal", empty))


def ordered_attribute(name: str, members: Sequence[str]) -> str:
    """An attribute for weights that lie in the order of `members`.

    With `skip_mismatch` Keras goes on behind a refusal, into the layers inside, and finds them by
    their attributes: those of another order must not be found.
    """
    digest = hashlib.sha256("\n".join(members).encode()).hexdigest()
    return f"{name}-{digest[:8]}"
