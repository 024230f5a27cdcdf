"""A weighted sum of metrics as one score."""

from collections.abc import Mapping

import keras

from ple_keras._checks import check_number, short_repr
from ple_keras._typing import Logs


class MultiTaskScore(keras.callbacks.Callback):
    """Callback that logs a weighted sum of metrics, as a score for early stopping and checkpoints.

    Higher is better: use a negative weight for a metric to minimize, such as an RMSE. In the list
    of callbacks, it must come before those that monitor the score. Epochs without validation have
    no score.

    The score is NaN if a metric is NaN, such as the AUC of a task without a positive or a negative
    label in the validation data. For EarlyStopping and ModelCheckpoint, NaN is no improvement, and
    nothing improves on a score that is NaN in the first epoch: training stops after `patience`
    epochs.

    Args:
        weights: `{key of logs: weight}`, with finite weights.
        name: The key of the score in `logs`.

    Raises:
        TypeError: If `weights` is not a dict of numbers.
        ValueError: If it is empty or a weight is not finite. In `fit`, if `logs` lacks a key.

    Example:

    >>> score = MultiTaskScore({"val_click_auc": +1, "val_watch_time_rmse": -0.5})
    >>> stop = keras.callbacks.EarlyStopping(monitor="val_mtl_score", mode="max", patience=3)
    >>> callbacks = [score, stop]
    """

    def __init__(self, weights: Mapping[str, float], name: str = "val_mtl_score") -> None:
        super().__init__()
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"weights must be a dict by metric. Received: weights={short_repr(weights)}"
            )
        if not weights:
            raise ValueError("weights must name at least one metric. Received: weights={}")
        self.weights = {key: check_number(w, f"weights[{key!r}]") for key, w in weights.items()}
        self.name = name

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs if logs is not None else {}
        missing = [key for key in self.weights if key not in logs]
        has_validation = any(key.startswith("val_") for key in logs)
        if not has_validation and any(key.startswith("val_") for key in missing):
            return
        if missing:
            raise ValueError(
                f"weights must have keys of the logs, {sorted(logs)}. Received: weights={missing}"
            )
        logs[self.name] = sum(weight * float(logs[key]) for key, weight in self.weights.items())
