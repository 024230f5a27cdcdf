"""Arrays of labels and predictions, for functions that need all rows at once."""

import numpy as np

from ple_keras._typing import Tensor
from ple_keras.labels.alignment import to_number_array


def label_rows(labels: Tensor, predictions: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions as float arrays `(N,)`, from `(...)` or `(..., 1)`.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If their numbers of entries differ.
    """
    y, p = to_number_array(labels, "labels"), to_number_array(predictions, "predictions")
    if _without_last_axis(y.shape) != _without_last_axis(p.shape):
        raise ValueError(
            "labels must have one entry for each prediction. "
            f"Received: labels.shape={y.shape}, predictions.shape={p.shape}"
        )
    return y.ravel().astype("float64"), p.ravel().astype("float64")  # float64 keeps all ties


def _without_last_axis(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without a last axis of length 1."""
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape


def check_valid(labels: np.ndarray, wrong: np.ndarray, rule: str, argument: str = "labels") -> None:
    """Raise an error if any label is wrong."""
    if wrong.any():
        raise ValueError(
            f"{argument} must {rule} or be missing. Received: {argument}=[..., {labels[wrong][0]}]"
        )
