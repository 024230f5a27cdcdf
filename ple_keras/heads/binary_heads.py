"""The heads of the probability of a positive label, and of the joint probability of several."""

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_number, short_repr
from ple_keras._keras.saving import register
from ple_keras._typing import Config, LayerLike, LossLike, MetricLike, Shape, TaskName, Tensor
from ple_keras.families.family import Binary
from ple_keras.heads.head import Head
from ple_keras.labels.task_names import check_targets, check_task_name
from ple_keras.losses.example_losses import ProbabilityCrossentropy
from ple_keras.losses.loss_kinds import is_elementwise
from ple_keras.metrics.sums import LogitAUC


class ProbabilityHead(Head):
    """A head whose prediction is the probability of a positive label."""

    _own_family = Binary()

    def _default_metrics(self) -> list[MetricLike]:
        return [LogitAUC()]

    def _label_width(self) -> int:
        return self.units


@register
class BinaryHead(ProbabilityHead):
    """The probability of a positive label, or of each of several: `(..., H) -> (..., units)`.

    The activation is `sigmoid`, and the loss binary cross-entropy. The metrics are `auc` and the
    mean of the loss, `binary_crossentropy` (`weighted_binary_crossentropy` with a `pos_weight`).
    The thresholds of `auc` are evenly spaced in the logit, so that it is accurate even at low base
    rates.

    With many targets of one kind, such as assays, use one head with `units` or `targets`, and
    labels `(batch, units)` that are NaN where missing. One head takes far less time than a head for
    each target. `auc` is then the mean of the areas of the targets that have both labels.

    The targets of all heads share 131,072 intervals for `auc`: 4,096 for each of up to 32 targets,
    as in `LogitAUC`, and 212 for each of 617, with a width of 0.13 in the logit from -12 to 6.

    Args:
        task: The task's name (see `TaskHeads`).
        tower: The task's own network (see `Head`).
        units: The number of targets.
        targets: The names of the targets, distinct strings of any characters. Reports and
            `transfer_weights` use them. `units` is their number.
        loss: A loss of probabilities that replaces binary cross-entropy.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        pos_weight: The factor of the loss of the label 1, for all targets. The probabilities are
            then calibrated for the weighted data: their odds are `pos_weight` times too high.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the task, `(..., H)`.
        training: Passed to the tower.

    Returns:
        The probabilities of the label 1, `(..., units)`, at least float32.

    Raises:
        TypeError: As for `Head`, and if `targets` are not strings.
        ValueError: As for `Head`, and if `pos_weight` is not above 0, or is given for several
            targets with a custom loss. If a target is repeated, or `units` is not their number.

    Example:

    >>> tuple(BinaryHead("click", tower=[64])(keras.ops.ones((8, 32))).shape)
    (8, 1)
    >>> assays = BinaryHead("assays", targets=["NR-AR", "SR-p53"], reduction="by_target")
    >>> tuple(assays(keras.ops.ones((8, 32))).shape)
    (8, 2)
    """

    _fixed = (*Head._fixed, "targets")
    _set_by_class = ("activation",)

    def __init__(
        self,
        task: str,
        tower: LayerLike | None = None,
        *,
        units: int = 1,
        targets: Iterable[str] | None = None,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        pos_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        weight = None if pos_weight is None else check_number(pos_weight, "pos_weight", above=0)
        self.pos_weight = weight
        loss = keras.losses.BinaryCrossentropy() if loss is None else loss
        self.targets, units = check_targets(targets, units)
        super().__init__(task, units, "sigmoid", loss, metrics, tower, **kwargs)
        if self.units > 1 and weight is not None and not is_elementwise(self.loss):
            raise ValueError(
                "pos_weight of several targets requires a Keras loss with a value for each number. "
                f"Received: {pos_weight=}, {units=}, {loss=}"
            )

    def _loss_name(self) -> str:
        name = super()._loss_name()
        return name if self.pos_weight is None else f"weighted_{name}"

    def example_losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        losses = super().example_losses(y_true, y_pred)
        if self.pos_weight is None:
            return losses
        y_true = ops.squeeze(y_true, -1) if self.units == 1 else y_true
        return losses * (1 + (self.pos_weight - 1) * y_true)

    def get_config(self) -> Config:
        return {**super().get_config(), "pos_weight": self.pos_weight}


@register
class ProductHead(ProbabilityHead):
    """The joint probability of several tasks, such as a click and a purchase: `(..., 1)`.

    `p = p_1 p_2 ... = exp(log p_1 + log p_2 + ...)`, from the logits of the tasks' heads. Below
    1e-37, the limit of float32, a product has no gradient.

    If `p_1` is the probability of a click and `p_2` the probability of a purchase after a click,
    the product is the probability of both. Since every impression has a label for the product,
    `p_2` is trained on the entire space, not only on clicked impressions. This is ESMM, the Entire
    Space Multi-Task Model.

    TaskHeads takes a ProductHead together with the heads of its factors. A ProductHead reads no
    features: blocks that take the TaskHeads as `outputs` omit its task. Its loss is added to the
    masked loss of `p_2`. To omit the latter, set `loss_weight=0.0` in that head.

    The loss is binary cross-entropy over the entire space. The metrics are `auc` and
    `binary_crossentropy`.

    Args:
        task: The name of the product (see `TaskHeads`).
        of: The tasks of the factors, at least two BinaryHeads or other ProductHeads.
        loss: A loss of probabilities that replaces binary cross-entropy.
        metrics: Metrics that replace those above. To keep them, use `extra_metrics`.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: Refused, since a product reads no features. Call the TaskHeads instead.
        training: Ignored.

    Returns:
        The product of the probabilities, `(..., 1)`, at least float32, from the TaskHeads.

    Raises:
        TypeError: As for `Head`, and if `of` is not a sequence of names.
        ValueError: As for `Head`, and if `of` has fewer than two names, repeats one, or contains
            `task`, or if the head is called. TaskHeads raises it for unknown tasks, tasks without a
            probability, and cycles of products.

    Reference:

    - Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click
      Conversion Rate", SIGIR 2018, equation 4.
      [arXiv:1804.07931](https://arxiv.org/abs/1804.07931)

    Example:

    >>> heads = TaskHeads(
    ...     [BinaryHead("click"), BinaryHead("cvr"), ProductHead("ctcvr", of=("click", "cvr"))]
    ... )
    >>> heads.task_names
    ['click', 'cvr']
    >>> x = keras.ops.ones((8, 32))
    >>> sorted(heads({"click": x, "cvr": x}))
    ['click', 'ctcvr', 'cvr']
    """

    _fixed = (*Head._fixed, "of")
    _set_by_class = ("units", "activation", "tower")

    def __init__(
        self,
        task: str,
        of: Sequence[str],
        *,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = ProbabilityCrossentropy() if loss is None else loss
        super().__init__(task, 1, "exponential", loss, metrics, None, **kwargs)
        if isinstance(of, str) or not isinstance(of, Sequence):
            raise TypeError(f"of must be a sequence of task names. Received: of={of!r}")
        self.of = [check_task_name(name, "of", of) for name in of]
        if len(of) < 2 or len(set(of)) < len(of) or task in of:
            raise ValueError(f"of must name at least two other tasks, each once. Received: {of=}")

    def __call__(self, inputs: Tensor, *args: object, **kwargs: object) -> Tensor:
        raise ValueError(
            f"Call the TaskHeads, not {self.name!r}. Received: inputs={short_repr(inputs)}"
        )

    def build(self, input_shape: Shape) -> None:
        """Record the rank of the features of the factors. The head has no weights."""
        self._leading_axes = (None,) * (len(input_shape) - 1)

    def _row_family(self) -> None:
        """Return no family: the product has a cross-entropy of its own."""

    def log_probability(self, factors: Sequence[Tensor]) -> Tensor:
        """Return the logarithm of the product.

        Args:
            factors: The logarithms of the factors' probabilities, each `(..., 1)`.

        Returns:
            `(..., 1)`.
        """
        return sum(factors[1:], start=factors[0])


def sort_products(heads: Sequence[Head]) -> list[TaskName]:
    """Return the tasks of ProductHeads, each after its factors.

    Raises:
        ValueError: If a factor is missing or not a probability, or ProductHeads form a cycle.
    """
    by_task = {head.task: head for head in heads}
    products = {head.task: head for head in heads if isinstance(head, ProductHead)}
    for product in products.values():
        for task in product.of:
            head: Any = by_task.get(task)
            is_known = isinstance(head, ProbabilityHead) and type(head).call is Head.call
            if not is_known or head.units > 1 or head.activity_regularizer is not None:
                raise ValueError(
                    "of must name BinaryHeads or ProductHeads of the same TaskHeads that have no "
                    "activity_regularizer, predict one number, and do not override `call`. "
                    f"Received: of={product.of} in {product.name!r}, with {task!r}, {head!r}"
                )
    factors = {task: product.of for task, product in products.items()}
    try:  # each product follows the products among its factors
        return [task for task in TopologicalSorter(factors).static_order() if task in factors]
    except CycleError as error:
        raise ValueError(
            f"heads must not contain a cycle of products. Received: heads with of={factors}"
        ) from error
