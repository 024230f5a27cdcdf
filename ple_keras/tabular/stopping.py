"""The end of the training of a model of a frame, and its errors."""

from collections.abc import Mapping

import keras
import numpy as np

from ple_keras._typing import ByName
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import find_heads, hedged_heads
from ple_keras.hedging.fit_hedge import FitHedge
from ple_keras.inspection.task_figures import labels_by_position, task_figures

BATCH_SIZE = 4096  # of predictions
LOSS = "relative_loss"  # its key in logs


def relative_errors(
    heads: Mapping[str, Head], predictions: ByName, labels: ByName
) -> dict[str, float]:
    """Return the relative error of each task (see `task_report`), which is NaN without labels."""
    errors = {}
    for task, head in heads.items():
        known = labels_by_position(head, labels[task], predictions[task])
        errors[task] = task_figures(head, predictions[task], known).relative_error
    return errors


def stop_callbacks(
    model: keras.Model, validation: tuple[ByName, ByName, ByName | None], patience: int
) -> list[keras.callbacks.Callback]:
    """Return callbacks that stop when nothing improves, and keep the best epochs."""
    if hedged_heads(model):
        return [FitHedge(validation, BATCH_SIZE, patience=patience)]
    options = {"mode": "min", "patience": patience, "restore_best_weights": True}
    return [_RelativeLoss(*validation[:2]), keras.callbacks.EarlyStopping(LOSS, **options)]


class _RelativeLoss(keras.callbacks.Callback):
    """Callback that logs the mean relative error of the tasks on validation rows."""

    def __init__(self, x: ByName, y: ByName) -> None:
        super().__init__()
        self._x, self._y = x, y

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        predictions = self.model.predict(self._x, batch_size=BATCH_SIZE, verbose=0)
        errors = relative_errors(find_heads(self.model), predictions, self._y)
        logs[LOSS] = float(np.mean([*errors.values()]))
