"""A check of the predictions that another model has given."""

import keras
import numpy as np

from ple_keras._checks import warn_user
from ple_keras._typing import ByName, Nested
from ple_keras.heads.task_heads import hedged_heads
from ple_keras.layers.observer import Observer
from ple_keras.steps.observing_model import ObservingModel

TOLERANCE = 0.01  # of probabilities and their sums, in half precisions
MIN_ROWS = 20  # from which two different values are too few


def warn_given(model: keras.Layer, x: Nested) -> None:
    """Warn if given predictions of a batch must be probabilities, but are not."""
    activations = keras.activations.sigmoid, keras.activations.softmax
    heads = {t: h for t, h in hedged_heads(model).items() if h.activation in activations}
    if not any(head.branches.given for head in heads.values()):
        return

    def given(outputs: ByName, observer: Observer) -> dict[str, ByName]:
        return {task: observer.given[task] for task in heads}

    for task, branches in ObservingModel(model, given).run_batch(x).items():
        for branch, values in branches.items():
            if problem := _problem(values.reshape(-1, heads[task].units)):
                warn_user(
                    f"The predictions of the given branch {branch!r} for {task!r} must be "
                    "probabilities, such as predict_proba returns, not logits or classes. "
                    f"Received: {problem}"
                )


def _problem(values: np.ndarray) -> str:
    """Return the reason why predictions `(rows, units)` are not probabilities, if any."""
    values = values[np.isfinite(values).all(axis=-1)]
    if not len(values):
        return ""
    low, high, sums = values.min(), values.max(), values.sum(axis=-1)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        return f"values from {low:.3g} to {high:.3g}"
    if values.shape[-1] > 1 and (np.abs(sums - 1) > TOLERANCE).any():
        return f"sums from {sums.min():.3g} to {sums.max():.3g}"
    if len(values) >= MIN_ROWS and len(found := np.unique(values)) == 2:
        return f"only the values {found[0]:.3g} and {found[1]:.3g}"
    return ""
