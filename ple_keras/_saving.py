"""A block's order of names goes into its file, so that another order is refused."""

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
    has_names = KEY in list(store.keys())
    saved = np.asarray(store[KEY]).tobytes().decode().split("\n") if has_names else None
    if saved != list(names):
        raise ValueError(
            f"The file was written by a layer with {saved}, in this order, but {layer.name!r} has "
            f"{list(names)}. Build the model with the tasks and experts of the file. "
            f"Received: names={saved}"
        )
