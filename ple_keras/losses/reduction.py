"""The mean of the losses of examples over a sample space."""

from typing import Any, NamedTuple

from keras import ops

from ple_keras._typing import LossReduction, Tensor
from ple_keras.labels.sample_space import LabeledExamples, align_weights

SUM_OVER_BATCH_SIZE: LossReduction = "sum_over_batch_size"
LABEL_ROOT: LossReduction = "label_root"


class BatchLoss(NamedTuple):
    """The loss of a task in a batch, without its weight.

    Attributes:
        value: The loss, by its reduction, with sample weights.
        weight: The sum of the weights of the labeled examples.
        divisor: The number that the reduction divides by.
        total: The sum of the losses of all labeled examples, without sample weights.
        count: The number of labeled examples, or of labeled numbers.
        labeled: The labels and predictions, and those in the sample space.
    """

    value: Any
    weight: Any
    divisor: Any
    total: Any
    count: Any
    labeled: LabeledExamples


def check_reduction(reduction: LossReduction | None) -> LossReduction | None:
    """Return `reduction`; check that it is one of the labels'."""
    if reduction not in (None, SUM_OVER_BATCH_SIZE, LABEL_ROOT):
        raise ValueError(
            "reduction must be None, for the mean over labeled examples, "
            f"{SUM_OVER_BATCH_SIZE!r} or {LABEL_ROOT!r}. Received: reduction={reduction!r}"
        )
    return reduction


def reduce_losses(
    losses: Tensor,
    labeled: LabeledExamples,
    sample_weight: Tensor | None,
    reduction: LossReduction | None,
    where: str = "",
) -> BatchLoss:
    """Return the loss of a task from those of its examples.

        L = sum_i d_i w_i loss_i / n

    d_i is 1 for labeled examples, else 0, and w_i the sample weight. n is, by the reduction, the
    number of labeled examples (None), that of all examples B, or `sqrt(sum_i d_i B)`.

    Args:
        losses: The loss of each example, `(...)`, or of each number of its label, `(..., units)`.
        labeled: The labeled examples.
        sample_weight: Weights of the examples, `(batch,)`, `(...)` or `(..., 1)`. That of an
            example without a label may be NaN.
        reduction: The reduction.
        where: Text after the name in messages, such as " of 'click'".
    """
    dtype, examples = losses.dtype, labeled.predictions.shape[:-1]
    are_of_numbers = len(losses.shape) > len(examples)
    mask = labeled.numbers if are_of_numbers else labeled.examples
    zero = ops.zeros((), dtype)
    losses = losses if mask is None else ops.where(mask, losses, zero)
    size = ops.cast(ops.size(losses), dtype)
    count = weight = size if mask is None else ops.sum(ops.cast(mask, dtype))
    total = value = ops.sum(losses)
    if sample_weight is not None:
        weights = ops.cast(align_weights(sample_weight, examples, where), dtype)
        weights = ops.expand_dims(weights, -1) if are_of_numbers else weights
        weights = weights * ops.ones_like(losses)
        weights = weights if mask is None else ops.where(mask, weights, zero)
        value, weight = ops.sum(losses * weights), ops.sum(weights)
    if reduction == LABEL_ROOT:
        divisor = ops.sqrt(count * size)
    else:
        divisor = size if reduction == SUM_OVER_BATCH_SIZE else count
    divisor = ops.maximum(divisor, 1.0)  # of an empty batch or sample space
    return BatchLoss(value / divisor, weight, divisor, total, count, labeled)
