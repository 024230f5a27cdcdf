"""The loss of a task in a batch."""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

from keras import ops

from ple_keras._typing import Tensor
from ple_keras.heads.head import Head
from ple_keras.labels.sample_space import LabeledExamples
from ple_keras.losses.reduction import LABEL_ROOT, ReducedLoss, full_reduction, reduce_losses


class BatchLoss(NamedTuple):
    """The loss of a task in a batch.

    Attributes:
        labeled: The labels and predictions, and those in the sample space.
        loss: The loss, without its weight.
    """

    labeled: LabeledExamples
    loss: ReducedLoss


def batch_loss(
    head: Head,
    y_true: Tensor,
    y_pred: Tensor,
    sample_weight: Tensor | None,
    branches: Sequence[Tensor] | None = None,
) -> BatchLoss:
    """Return the loss of a task in a batch.

    Args:
        head: The head of the task.
        y_true: The labels.
        y_pred: The predictions.
        sample_weight: Weights of the examples; None for 1.
        branches: The predictions that `y_pred` mixes. They are trained in its place: the value of
            the loss is that of `y_pred`, and its gradient that of the sum of their losses with the
            reduction "label_root".
    """
    labeled = head._find_labeled(y_true, y_pred)
    labels = ops.cast(labeled.labels, y_pred.dtype)

    def reduced(examples: LabeledExamples, reduction: str) -> ReducedLoss:
        losses = head.example_losses(labels, examples.predictions)
        return reduce_losses(losses, examples, sample_weight, reduction, f" of {head.task!r}")

    loss = reduced(labeled, full_reduction(head.loss, head.reduction))
    if branches is not None:
        examples = map(labeled.with_predictions, branches)
        trained = reduce(ops.add, [reduced(branch, LABEL_ROOT).value for branch in examples])
        value = ops.stop_gradient(loss.value) + (trained - ops.stop_gradient(trained))
        loss = loss._replace(value=value)
    return BatchLoss(labeled, loss)
