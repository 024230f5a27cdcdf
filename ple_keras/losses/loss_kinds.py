"""Keras losses, grouped by the labels that they take."""

import keras
import numpy as np

from ple_keras._checks import warn_user
from ple_keras._keras.names import stable_name, to_snake_case
from ple_keras._typing import LossLike
from ple_keras.labels.label_arrays import (
    check_class_indices,
    check_probabilities,
    check_values,
    is_constant,
)

CLASS_INDICES = {"sparse_categorical_crossentropy", "categorical_generalized_cross_entropy"}
PROBABILITIES = {"binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy"}
PROBABILITIES |= {"categorical_focal_crossentropy", "kl_divergence"}
NOT_NEGATIVE = {"poisson", "mean_squared_logarithmic_error"}  # losses with logarithms
# Losses that grow with the scale of the labels:
ERRORS = {"mean_squared_error", "mean_absolute_error", "huber", "log_cosh"}
# Losses that are the mean of the losses of a label's numbers:
ELEMENTWISE = {"binary_crossentropy", "binary_focal_crossentropy", "hinge", "squared_hinge"}
ELEMENTWISE |= {"poisson", "mean_squared_logarithmic_error", "mean_absolute_percentage_error"}
ELEMENTWISE |= ERRORS


def loss_name(loss: LossLike) -> str:
    """Return the name of the function of a Keras loss; "" for other losses."""
    loss = keras.losses.get(loss)
    known = type(loss) if isinstance(loss, keras.Loss) else loss
    name = getattr(known, "__name__", "")
    return to_snake_case(name) if getattr(keras.losses, name, None) is known else ""


def is_elementwise(loss: LossLike) -> bool:
    """Return whether a loss is the mean of the losses of a label's numbers."""
    return loss_name(loss) in ELEMENTWISE and getattr(loss, "axis", -1) == -1


def check_for_loss(labels: np.ndarray, task: str, loss: LossLike, units: int) -> None:
    """Check that labels have values that a Keras loss accepts, and warn if it is a poor choice.

    Args:
        labels: The labels that are not missing, `(labels, width)`.
        task: The task's name, for messages.
        loss: The loss of the task.
        units: The width of the predictions.
    """
    name = loss_name(loss)
    if name in PROBABILITIES:
        check_probabilities(labels, task)
    elif name in NOT_NEGATIVE:
        check_values(labels, labels < 0, task, f"be at least 0 for the loss {stable_name(loss)!r}")
    elif name in CLASS_INDICES:
        check_class_indices(labels, task, units)
    elif name in ERRORS and len(labels) and not is_constant(labels):
        deviation = np.nanstd(labels.astype("float64"), axis=0).max()
        if np.isin(labels[~np.isnan(labels)], (0, 1)).all():
            warn_user(f"y[{task!r}] has only labels 0 and 1. Use a BinaryHead for probabilities")
        elif not 0.1 <= deviation <= 10:
            problem = "dominates the losses" if deviation > 1 else "vanishes next to the losses"
            warn_user(
                f"y[{task!r}] has a standard deviation of {deviation:.3g}, so its loss, "
                f"{stable_name(loss)!r}, {problem} of other tasks. Use RegressionHead({task!r}, "
                "standardize=True) and call `adapt` of the TaskHeads"
            )
