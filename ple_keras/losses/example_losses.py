"""The loss of each example, and its reduction over a sample space."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from ple_keras._checks import check_known, check_known_value
from ple_keras._keras.internals import set_mask
from ple_keras._keras.names import to_snake_case
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import binary_crossentropy, clip, fill
from ple_keras._typing import LossLike, LossReduction, Tensor
from ple_keras.labels.sample_space import LabeledExamples, align_weights
from ple_keras.losses.loss_kinds import is_elementwise, loss_name

MIN_PROBABILITY = 1e-37  # close to the smallest normal number of float32


def check_loss(loss: LossLike | Mapping[str, object] | None) -> Any:
    """Return a loss from a name, a function, an object, a serialized object or None."""
    known = check_known(keras.losses.get, loss, "loss")
    loss = known if isinstance(loss, Mapping | type) else loss
    reduction = getattr(known, "reduction", "mean")
    if reduction not in ("mean", "sum_over_batch_size"):
        raise ValueError(
            f"loss must have the default reduction, a mean. Received: {loss=} with {reduction=}"
        )
    return loss


def example_losses(loss: LossLike, y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return the loss of each example, `(...)`, or of each number of its label, `(..., units)`.

    A loss that is the mean of the losses of several numbers has a value for each number.

    Args:
        loss: A name, a function or a `keras.losses.Loss`.
        y_true: Labels, `(...)`, `(..., 1)` or `(..., units)`.
        y_pred: Predictions, `(..., units)`.

    Raises:
        ValueError: If `loss` does not return a value for each example.
    """
    known = keras.losses.get(loss)
    have_equal_ranks = len(y_true.shape) == len(y_pred.shape)
    if have_equal_ranks and y_true.shape[-1] == y_pred.shape[-1] and _is_crossentropy(known):
        values = binary_crossentropy(y_true, y_pred)
        return ops.squeeze(values, -1) if values.shape[-1] == 1 else values
    function = known.call if isinstance(known, keras.Loss) else known
    if have_equal_ranks and is_elementwise(loss) and 1 not in (y_true.shape[-1], y_pred.shape[-1]):
        y_true, y_pred = ops.expand_dims(y_true, -1), ops.expand_dims(y_pred, -1)
    values = ops.convert_to_tensor(function(y_true, y_pred))
    rank = len(y_pred.shape) - 1
    set_mask(values, None)  # ignored classes count as missing labels
    if len(values.shape) == rank + 1:
        values = ops.mean(values, axis=-1)
    if len(values.shape) != rank:
        raise ValueError(
            f"loss must return a value for each example. For predictions {tuple(y_pred.shape)}, it "
            f"returned {tuple(values.shape)}. Received: loss={loss!r}"
        )
    return values


def _is_crossentropy(loss: LossLike) -> bool:
    """Return whether a loss is Keras's binary cross-entropy of probabilities, without options."""
    has_options = getattr(loss, "from_logits", False) or getattr(loss, "label_smoothing", 0)
    return loss_name(loss) == "binary_crossentropy" and is_elementwise(loss) and not has_options


def uncertainty_form(loss: LossLike) -> tuple[float, float]:
    """Return c and a of `c exp(-s) L + a s`, the negative log-likelihood with the scale `exp(s)`.

    For squared errors, it is a normal distribution with the log-variance s: `L / (2 sigma^2) + log
    sigma`. For absolute errors, it is a Laplace distribution, and s is the logarithm of its scale.
    For all other losses, it is the scaled softmax of Kendall, Gal and Cipolla (CVPR 2018):
    `L / sigma^2 + log sigma`.
    """
    loss = keras.losses.get(loss)
    names = [to_snake_case(getattr(x, "__name__", "")) for x in (loss, *type(loss).__mro__)]
    forms = {"mean_squared_error": (0.5, 0.5), "mean_absolute_error": (1.0, 1.0)}
    forms["pinball"] = forms["mean_absolute_error"]
    return next((forms[name] for name in names if name in forms), (1.0, 0.5))


@register
class ProbabilityCrossentropy(keras.Loss):
    """Binary cross-entropy with a gradient at probabilities far below 1e-7.

    Keras's loss clips probabilities at 1e-7. A positive example with a smaller product of
    probabilities would have no gradient.
    """

    def __init__(self, name: str = "binary_crossentropy", **kwargs: object) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.mean(crossentropy(y_true, y_pred), axis=-1)


def crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return the cross-entropy of each probability, in the shape of the labels."""
    log_positive = ops.log(clip(y_pred, low=MIN_PROBABILITY))
    log_negative = ops.log1p(-clip(y_pred, high=1 - keras.config.epsilon()))
    return -(y_true * log_positive + (1 - y_true) * log_negative)


REDUCTIONS: list[LossReduction | None] = [None, "sum_over_batch_size", "label_root", "by_target"]


def check_reduction(reduction: LossReduction | None, loss: LossLike | None) -> LossReduction | None:
    """Return a reduction, or None, if it is known, and the loss has what it needs."""
    check_known_value(reduction, REDUCTIONS, "reduction")
    if reduction == "by_target" and loss is not None and not is_elementwise(loss):
        raise ValueError(
            "reduction='by_target' requires a Keras loss that is the mean of the losses of a "
            f"label's numbers. Received: {loss=}"
        )
    return reduction


class BatchLoss(NamedTuple):
    """The loss of a task in a batch, without its weight.

    Attributes:
        value: The loss, by its reduction, with sample weights. It has no gradient if the prediction
            mixes branches.
        weight: The sum of the weights of the labeled examples; for "by_target", of each target.
        divisor: The number that the reduction divides by, or the number of each target.
        total: The sum of the losses of all labeled examples, without sample weights.
        count: The number of labeled examples, or of labeled numbers.
        labeled: The labels and predictions, and which are in the sample space.
        trained: The sum of the losses of the branches, of which only the gradient is used; None
            without branches.
    """

    value: Tensor
    weight: Tensor
    divisor: Tensor
    total: Tensor
    count: Tensor
    labeled: LabeledExamples
    trained: Tensor | None = None

    def share(self) -> Tensor:
        """Return the share of the rows that the reduction divides by, with sample weights."""
        return ops.mean(self.weight / self.divisor)

    def with_gradient(self) -> Tensor:
        """Return the loss with the gradient that trains the model."""
        if self.trained is None:
            return self.value
        return self.value + (self.trained - ops.stop_gradient(self.trained))


def reduce_losses(
    losses: Tensor,
    labeled: LabeledExamples,
    sample_weight: Tensor | None,
    reduction: LossReduction | None,
    where: str = "",
    branch_losses: Tensor | None = None,
) -> BatchLoss:
    """Return the loss of a task from the losses of its examples.

        L = sum_i d_i w_i loss_i / n

    d_i is 1 for labeled examples, else 0, and w_i the sample weight. Depending on the reduction, n
    is the number of labeled examples (None), of all examples B, or `sqrt(sum_i d_i B)`. With
    "by_target", L is the mean over the K numbers of a label, of which each has its own n.

    Args:
        losses: The loss of each example, `(...)`, or of each number of its label, `(..., units)`.
        labeled: The labeled examples.
        sample_weight: Weights of the examples, `(batch,)`, `(...)` or `(..., 1)`, NaN at most where
            a label is missing.
        reduction: The reduction.
        where: Text after the name in messages, such as " of 'click'".
        branch_losses: The losses of the branches that a prediction mixes, `(branches, *shape)` for
            losses of this shape, which are trained with "label_root".
    """
    examples, units = labeled.predictions.shape[:-1], labeled.predictions.shape[-1]
    by_number, by_target = len(losses.shape) > len(examples), reduction == "by_target"
    if by_target and not by_number and units > 1:
        raise ValueError(
            "reduction='by_target' requires a loss of each number of a label. Received: losses"
            f"{where} with shape={tuple(losses.shape)}"
        )
    missing, counted = labeled.missing, ops.ones_like(losses)
    are_finite = True  # the losses of missing labels
    if missing is not None:
        if not by_number:
            are_finite = missing.shape[-1] == 1  # else, a label misses some of its numbers
            missing = ops.squeeze(missing, -1) if are_finite else ops.any(missing, axis=-1)
        counted = ops.cast(ops.logical_not(missing), losses.dtype)
        losses = losses * counted if are_finite else fill(losses, missing, 0)
    axes = tuple(range(len(examples))) if by_target else None
    count = weight = ops.sum(counted, axis=axes)
    total = weighted = ops.sum(losses, axis=axes)
    weights = None
    if sample_weight is not None:
        weights = ops.cast(align_weights(sample_weight, examples, where), losses.dtype)
        weights = ops.expand_dims(weights, -1) if by_number else weights
        weights = weights * ops.ones_like(losses)
        weights = weights if missing is None else fill(weights, missing, 0)
        weighted, weight = ops.sum(losses * weights, axis=axes), ops.sum(weights, axis=axes)
    size = _size(losses)
    divisor = _divisor(reduction, count, size)
    value = weighted / divisor
    if by_target:
        value, total, count = ops.mean(value), ops.sum(total), ops.sum(count)
    trained = None
    if branch_losses is not None:
        trained = branch_losses * counted if are_finite else fill(branch_losses, missing, 0)
        trained = ops.sum(trained if weights is None else trained * weights)
        trained = trained / _divisor("label_root", count, size)
    return BatchLoss(value, weight, divisor, total, count, labeled, trained)


def _size(losses: Tensor) -> Tensor | int:
    """Return the number of losses, at least 1: a tensor on TensorFlow if it is unknown."""
    size = math.prod(ops.shape(losses))
    return clip(ops.cast(size, losses.dtype), low=1) if ops.is_tensor(size) else max(size, 1)


def _divisor(reduction: LossReduction | None, count: Tensor, size: Tensor | int) -> Tensor | int:
    """Return the number that a reduction divides by.

    Args:
        reduction: The reduction.
        count: The number of labels, in all or of each target.
        size: The number of labels, with missing ones.
    """
    if reduction == "sum_over_batch_size":
        return size
    count = clip(count, low=1)  # an empty batch or sample space has none
    return ops.sqrt(count * size) if reduction == "label_root" else count
