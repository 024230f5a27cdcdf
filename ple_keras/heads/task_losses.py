"""The losses of all tasks in a batch, and their weighted sum."""

from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from ple_keras._keras.processes import replica_count
from ple_keras._keras.tensors import fill, is_constant_in_jax_trace
from ple_keras._typing import Tensor
from ple_keras.heads.head import Head
from ple_keras.labels.sample_space import fill_predictions
from ple_keras.losses.example_losses import BatchLoss, reduce_losses, uncertainty_form


def batch_loss(
    head: Head,
    y_true: Tensor,
    y_pred: Tensor,
    sample_weight: Tensor | None,
    values: Sequence[Tensor] | None = None,
) -> BatchLoss:
    """Return the loss of a task in a batch.

    Args:
        head: The head of the task.
        y_true: The labels.
        y_pred: The predictions.
        sample_weight: Weights of the examples; None for 1.
        values: The mixture, and the values of its branches. With them, the value of the loss is the
            mixture's, but its gradient is the gradient of the sum of the losses of the branches
            with the reduction "label_root".
    """
    labeled = head._find_labeled(y_true, y_pred)
    labels, predictions = labeled.labels, labeled.predictions
    if not isinstance(labels, Mapping):  # lists of a ranking have a dict
        labels = ops.cast(labels, predictions.dtype)
    if values:
        # Values are more examples of one call. The mixture is a constant: 0 times NaN would spoil
        # healthy branches.
        stack = head._predict(ops.stack([ops.stop_gradient(values[0]), *values[1:]]))
        count, missing = len(values), labeled.missing
        if missing is not None:
            stack = fill_predictions(stack, missing, head._predicts_finite())
        predictions = ops.reshape(stack, (-1, *ops.shape(stack)[2:]))
        labels = ops.concatenate([labels] * count)
    losses = head.example_losses(labels, predictions)
    trained = None
    if values:
        losses = ops.reshape(losses, (count, -1, *ops.shape(losses)[1:]))
        losses, trained = ops.stop_gradient(losses[0]), losses[1:]
    return reduce_losses(
        losses, labeled, sample_weight, head.reduction, f" of {head.task!r}", trained
    )


def total_loss(
    losses: Sequence[BatchLoss],
    heads: Collection[Head],
    multipliers: keras.Variable,
    log_variances: keras.Variable | None,
) -> Tensor:
    """Return the weighted sum of the losses of all tasks (see `TaskHeads.compute_loss`).

    Args:
        losses: The loss of each task.
        heads: The heads of the tasks.
        multipliers: The variable of the multipliers of loss weights.
        log_variances: The variable of the learned log-variances, or None.
    """
    values = [batch.value for batch in losses]
    if log_variances is not None and is_constant_in_jax_trace(log_variances, values):
        raise ValueError(
            "Learned loss weights have no gradient as constants of a JAX trace. Compute losses in "
            "`keras.StatelessScope(pairs)` of all variables and values. Received: no scope"
        )
    dtype = keras.backend.result_type(*(value.dtype for value in values), "float32")
    weights = np.array([head.loss_weight for head in heads])
    multipliers = ops.cast(multipliers, dtype)
    if log_variances is None:
        terms = _weighted(values, weights, dtype)
    else:
        scales, slopes = np.transpose([uncertainty_form(head.loss) for head in heads])
        shares = [batch.share() for batch in losses]
        log_variances = ops.cast(log_variances, dtype)
        terms = ops.exp(-log_variances) * _weighted(values, weights * scales, dtype)
        terms = terms + log_variances * _weighted(shares, weights * slopes, dtype)
    has_no_weight = multipliers == 0
    # A loss can be infinite, and 0 times infinity is NaN.
    total = ops.sum(multipliers * fill(terms, has_no_weight, 0))
    trained = [batch.trained for batch in losses]
    if any(loss is not None for loss in trained):
        # Weights do not scale the gradients of branches.
        trained = [ops.zeros((), dtype) if loss is None else loss for loss in trained]
        gradient = ops.sum(fill(_weighted(trained, weights != 0, dtype), has_no_weight, 0))
        total = total + (gradient - ops.stop_gradient(gradient))
    return total / replica_count()  # Keras adds the losses of replicas


def _weighted(losses: Sequence[Tensor], weights: np.ndarray, dtype: str) -> Tensor:
    """Return weighted losses, `(losses,)`: 0 for a weight of 0, even if the loss is infinite."""
    values = [ops.cast(loss, dtype) for loss in losses]
    for i, weight in enumerate(weights.tolist()):
        if not weight:
            values[i] = fill(values[i], ops.ones_like(values[i], dtype="bool"), 0)
        elif weight != 1:
            values[i] = values[i] * weight
    return ops.stack(values)
