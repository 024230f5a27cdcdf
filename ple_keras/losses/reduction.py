"""The mean of the losses of examples over a sample space."""

from typing import Any, NamedTuple

from keras import ops

from ple_keras._keras.tensors import number_of_replicas
from ple_keras._typing import LossLike, LossReduction, Tensor
from ple_keras.labels.sample_space import LabeledExamples, align_weights

SUM_OVER_BATCH_SIZE: LossReduction = "sum_over_batch_size"
LABEL_ROOT: LossReduction = "label_root"
LABELS = "labels"  # divides by the number of labeled examples


class ReducedLoss(NamedTuple):
    """The loss of a task in a batch.

    Attributes:
        value: The loss, by its reduction, with sample weights.
        weight: The sum of the weights of the labeled examples.
        divisor: The number that the reduction divides by.
        total: The sum of the losses of all labeled examples, without sample weights.
        count: The number of labeled examples, or of labeled numbers.
    """

    value: Any
    weight: Any
    divisor: Any
    total: Any
    count: Any


def check_reduction(reduction: LossReduction | None) -> LossReduction | None:
    """Return `reduction`; check that it is one of the labels'."""
    if reduction not in (None, SUM_OVER_BATCH_SIZE, LABEL_ROOT):
        raise ValueError(
            "reduction must be None, for the mean over labeled examples, "
            f"{SUM_OVER_BATCH_SIZE!r} or {LABEL_ROOT!r}. Set any other on the loss itself, such as "
            f'keras.losses.Huber(reduction="sum"). Received: reduction={reduction!r}'
        )
    return reduction


def full_reduction(loss: LossLike, reduction: LossReduction | None) -> str:
    """Return the reduction for `reduce_losses`, from a loss and the reduction of its labels.

    Returns:
        "labels", "sum_over_batch_size", "label_root", or another reduction of the loss itself.
    """
    own = getattr(loss, "reduction", SUM_OVER_BATCH_SIZE) or "none"
    return reduction or (LABELS if own in (SUM_OVER_BATCH_SIZE, "mean") else own)


def reduce_losses(
    losses: Tensor,
    labeled: LabeledExamples,
    sample_weight: Tensor | None,
    reduction: str,
    where: str = "",
) -> ReducedLoss:
    """Return the loss of a task from those of its examples.

        L = sum_i d_i w_i loss_i / n

    d_i is 1 for labeled examples, else 0, and w_i the sample weight. n is, by the reduction, the
    number of labeled examples, that of all examples B, `sqrt(sum_i d_i B)`, the sum of `d_i w_i`
    ("mean_with_sample_weight"), or 1 ("sum").

    Args:
        losses: The loss of each example, `(...)`, or of each number of its label, `(..., units)`.
        labeled: The labeled examples.
        sample_weight: Weights of the examples, `(batch,)`, `(...)` or `(..., 1)`.
        reduction: As returned by `full_reduction`.
        where: Text after the name in messages, such as " of 'click'".
    """
    dtype = losses.dtype
    mask = _mask_of_losses(losses, labeled)
    if mask is not None:
        losses = ops.where(mask, losses, ops.zeros((), dtype))
    size = ops.cast(ops.size(losses), dtype)
    count = weight = size if mask is None else ops.sum(ops.cast(mask, dtype))
    total = value = ops.sum(losses)
    if sample_weight is not None:
        weights = _weights_of_losses(losses, labeled, sample_weight, where)
        value, weight = ops.sum(losses * weights), ops.sum(weights)
    if reduction == "sum":
        divisor = losses.shape[-1] if len(losses.shape) == len(labeled.predictions.shape) else 1.0
    elif reduction == "mean_with_sample_weight":
        divisor = ops.where(weight == 0, ops.ones((), dtype), weight)
    else:
        divisors = {LABELS: count, SUM_OVER_BATCH_SIZE: size}
        divisor = divisors[reduction] if reduction in divisors else ops.sqrt(count * size)
        divisor = ops.maximum(divisor, 1.0)  # of an empty batch or sample space
    return ReducedLoss(value / divisor, weight, divisor, total, count)


def losses_of_examples(
    losses: Tensor, labeled: LabeledExamples, sample_weight: Tensor | None, where: str = ""
) -> Tensor:
    """Return the weighted loss of each example, `(...)`, which is 0 without a label.

    Args:
        losses: As for `reduce_losses`, and so are the other arguments.
    """
    mask = _mask_of_losses(losses, labeled)
    if mask is not None:
        losses = ops.where(mask, losses, ops.zeros((), losses.dtype))
    if sample_weight is not None:
        losses = losses * _weights_of_losses(losses, labeled, sample_weight, where)
    if len(losses.shape) < len(labeled.predictions.shape):
        return losses
    if mask is None:
        return ops.mean(losses, axis=-1)
    count = ops.sum(ops.cast(mask, losses.dtype), axis=-1)
    return ops.sum(losses, axis=-1) / ops.maximum(count, 1.0)


def _mask_of_losses(losses: Tensor, labeled: LabeledExamples) -> Tensor | None:
    """Return True for each loss of a labeled example, or number; None if all are labeled."""
    if labeled.examples is None or len(losses.shape) == len(labeled.examples.shape):
        return labeled.examples
    if labeled.numbers is not None:
        return labeled.numbers
    return ops.broadcast_to(ops.expand_dims(labeled.examples, -1), ops.shape(losses))


def _weights_of_losses(
    losses: Tensor, labeled: LabeledExamples, sample_weight: Tensor, where: str
) -> Tensor:
    """Return the weight of each loss, which is 0 without a label, even if it is NaN."""
    examples = labeled.predictions.shape[:-1]
    weights = ops.cast(align_weights(sample_weight, examples, where), losses.dtype)
    if len(losses.shape) > len(examples):
        weights = ops.expand_dims(weights, -1)
    weights, mask = weights * ops.ones_like(losses), _mask_of_losses(losses, labeled)
    return weights if mask is None else ops.where(mask, weights, ops.zeros((), losses.dtype))


def replica_scale(reduction: str) -> float:
    """Return the factor of the loss of one replica of `tf.distribute`, whose gradients are added.

    It is the factor of Keras's own losses.
    """
    return 1.0 if reduction == "sum" else 1 / number_of_replicas()
