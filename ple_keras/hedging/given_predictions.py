"""A check of the predictions that another model has given."""

import keras
import numpy as np

from ple_keras._checks import warn_user
from ple_keras._typing import ByName, Nested
from ple_keras.heads.task_heads import hedged_heads
from ple_keras.layers.observer import Observer
from ple_keras.steps.observing_model import ObservingModel

TOLERANCE = 0.01  # of probabilities and their sums, in half precisions
MIN_NUMBERS = 20  # of which two different values are too few


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
            known, units = values[np.isfinite(values)], heads[task].units
            found, sums = np.unique(known), values.reshape(-1, units).sum(axis=-1)
            is_wrong = ((found < -TOLERANCE) | (found > 1 + TOLERANCE)).any()
            is_wrong |= units > 1 and (np.abs(sums[np.isfinite(sums)] - 1) > TOLERANCE).any()
            if is_wrong or (len(found) == 2 and len(known) >= MIN_NUMBERS):
                warn_user(
                    f"The predictions of the given branch {branch!r} for {task!r} must be "
                    "probabilities, such as predict_proba returns, not logits or classes. "
                    f"Received: {len(found)} distinct values from {found[0]:.3g} to "
                    f"{found[-1]:.3g}, with a mean sum of {units * known.mean():.3g}"
                )
