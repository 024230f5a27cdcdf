"""One score of several metrics."""

import warnings
from collections.abc import Mapping

import keras

from ple_keras._checks import check_number
from ple_keras._typing import Logs


class MultiTaskScore(keras.callbacks.Callback):
    """Writes a weighted sum of metrics into `logs`: one number to stop on and to save by.

    Higher is better: give metrics such as an RMSE, where less is, a negative weight. In the list
    of callbacks it must stand before those that read the score. Epochs without validation have
    none.

    Args:
        weights: A finite number for each key of `logs`.
        name: The score's key.

    Raises:
        TypeError: if `weights` is no dict of numbers.
        ValueError: if it is empty or a weight is not finite; in `fit`, if `logs` lack a key.

    Example:

    >>> score = MultiTaskScore({"val_click_auc": +1, "val_watch_time_rmse": -0.5})
    >>> stop = keras.callbacks.EarlyStopping(monitor="val_mtl_score", mode="max", patience=3)
    >>> callbacks = [score, stop]
    """

    def __init__(self, weights: Mapping[str, float], name: str = "val_mtl_score") -> None:
        super().__init__()
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights must be a dict by metric. Received: weights={weights!r}")
        if not weights:
            raise ValueError("weights must name at least one metric. Received: weights={}")
        self.weights = {key: check_number(w, f"weights[{key!r}]") for key, w in weights.items()}
        self.name = name

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs if logs is not None else {}
        missing = [key for key in self.weights if key not in logs]
        has_validation = any(key.startswith("val_") for key in logs)
        if not has_validation and any(key.startswith("val_") for key in missing):
            self._has_waited = True
            return
        if missing:
            raise ValueError(
                f"weights must name keys of the logs, {sorted(logs)}. Received: weights={missing}"
            )
        logs[self.name] = sum(weight * float(logs[key]) for key, weight in self.weights.items())
        self._has_scored = True

    def on_train_begin(self, logs: Logs = None) -> None:
        self._has_waited = self._has_scored = False

    def on_train_end(self, logs: Logs = None) -> None:
        if self._has_waited and not self._has_scored:
            warnings.warn(
                f"There was no validation, and so no {self.name!r}: pass validation_data to fit",
                stacklevel=2,
            )
