"""The probability that several things happen, from the heads of each."""

from collections.abc import Sequence
from typing import Any

import keras

from ple_keras._checks import check_task_name, refuse_fixed
from ple_keras._keras.registration import register
from ple_keras._typing import LossLike, MetricLike, Shape, TaskName, Tensor
from ple_keras.heads.head import Head, without_keys
from ple_keras.labels.label_arrays import check_probabilities
from ple_keras.losses.probability_crossentropy import ProbabilityCrossentropy
from ple_keras.metrics.logit_auc import LogitAUC
from ple_keras.metrics.loss_mean import LossMean


@register
class ProductHead(Head):
    """The probability of all of several tasks, as of a click and then a purchase: `(..., 1)`.

    `p = p_1 p_2 ... = exp(log p_1 + log p_2 + ...)`, from the logits of the tasks' heads; below
    1e-37, where float32 ends, a product learns nothing any more. With
    `p_2` the probability of a purchase after a click, this is that of a click with a purchase,
    which every impression has a label for: `p_2` is trained on the whole space and not on clicked
    impressions alone (ESMM; Ma et al., "Entire Space Multi-Task Model", SIGIR 2018, equation 4).

    It goes into TaskHeads beside the heads that it is made of, and needs no features of its own:
    blocks given the TaskHeads as `outputs` leave it out. It stands beside the masked loss of
    `p_2`, or in its place: give that head `loss_weight=0.0`.

    The loss is binary cross-entropy over the whole space, the metrics are `auc` and
    `binary_crossentropy`.

    Args:
        task: The name of the product, see `TaskHeads`.
        of: The names of two tasks or more that it is the product of: those of BinaryHeads, or of
            other ProductHeads.
        loss: In place of binary cross-entropy: a loss of probabilities.
        metrics: In place of the metrics above.
        **kwargs: `loss_weight`, `missing_label` and `reduction` as for `Head`, and Keras's own
            layer arguments.

    Raises:
        TypeError: if `of` is no sequence of names, or as `Head`.
        ValueError: if `of` names fewer than two tasks or one twice, or as `Head`. TaskHeads
            refuses tasks that it doesn't know or that have no probability, and products in a
            circle.

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

    def __init__(
        self,
        task: str,
        of: Sequence[str],
        *,
        loss: LossLike | None = None,
        metrics: Sequence[MetricLike] | None = None,
        **kwargs: Any,
    ) -> None:
        for argument, value in (("units", "1"), ("activation", "exp"), ("tower", "none")):
            refuse_fixed(kwargs, argument, value)
        if loss is None:
            loss = ProbabilityCrossentropy()
        if metrics is None:
            metrics = [LogitAUC(), LossMean(loss)]
        super().__init__(task, 1, "exponential", loss, metrics, **kwargs)
        self.of = _check_factors(of, task)
        self.autocast = False  # logarithms come in float32 and stay so

    def build(self, input_shape: Shape) -> None:
        """There is nothing to build."""

    def adopt_rank(self, factor: Head) -> None:
        """Take the rank of a factor that is built."""
        self._leading = factor._leading

    def logits(self, features: Tensor) -> Tensor:
        """Refused: a product has no features of its own."""
        raise ValueError(
            f"{self.name!r} has no logits of its own, its factors {list(self.of)} have. "
            f"Received: features={features!r}"
        )

    def log_probability(self, factors: Sequence[Tensor]) -> Tensor:
        """The logarithm of the product, from those of the factors, each `(..., 1)`."""
        return sum(factors[1:], start=factors[0])

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        """Predict.

        Args:
            inputs: The logarithms of the factors' probabilities, each `(..., 1)`.
            training: Of no effect.

        Returns:
            The product, `(..., 1)`.
        """
        return self.activation(self.log_probability(inputs))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return tuple(input_shape[0])

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)

    def _check_values(self, labels: Tensor) -> None:
        check_probabilities(labels, self.task)

    def get_config(self) -> dict[str, Any]:
        config = without_keys(super().get_config(), "units", "activation", "tower")
        return {**config, "of": self.of}


def _check_factors(of: Sequence[TaskName], task: str) -> list[str]:
    if isinstance(of, str) or not isinstance(of, Sequence):
        raise TypeError(f"of must be a sequence of tasks' names. Received: of={of!r}")
    names = [check_task_name(name, "of") for name in of]
    if len(names) < 2 or len(set(names)) < len(names) or task in names:
        raise ValueError(
            f"of must name two tasks or more, each once, and not {task!r} itself. "
            f"Received: of={of!r}"
        )
    return names
