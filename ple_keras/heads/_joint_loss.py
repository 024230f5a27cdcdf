"""The training loss of all tasks, without `Model.compile`."""

from collections.abc import Mapping, Sequence

from ple_keras._checks import check_by_task, check_known_keys, short_repr
from ple_keras._keras.tensors import is_constant_in_jax_trace
from ple_keras._typing import ByName, Tensor
from ple_keras.heads.head import Head
from ple_keras.losses.loss_weights import LossWeights


def joint_loss(
    heads: Sequence[Head],
    weights: LossWeights,
    y: ByName,
    y_pred: ByName,
    sample_weight: ByName | None,
) -> Tensor:
    """Return the sum of the tasks' weighted losses; see `TaskHeads.compute_loss`.

    Args:
        heads: All heads of a TaskHeads, in order.
        weights: The variables that weigh their losses.
        y: As for `TaskHeads.compute_loss`.
        y_pred: As for `TaskHeads.compute_loss`.
        sample_weight: As for `TaskHeads.compute_loss`.
    """
    sample_weight = {} if sample_weight is None else sample_weight
    _check_arguments({"y": y, "y_pred": y_pred, "sample_weight": sample_weight}, heads)
    _check_not_constant(weights, y_pred)
    try:
        losses = [
            head.new_joint_losses(weights, index)[0](
                y[head.task], y_pred[head.task], sample_weight.get(head.task)
            )
            for index, head in enumerate(heads)
            if head.has_loss
        ]
    finally:
        weights.discard_losses()  # nothing is logged
    return sum(losses[1:], start=losses[0])


def _check_arguments(arguments: Mapping[str, ByName], heads: Sequence[Head]) -> None:
    trained = [head.task for head in heads if head.has_loss]
    if not trained:
        raise ValueError(
            "compute_loss needs a task with a loss. "
            f"Received: heads={[head.task for head in heads]}, all with loss=None"
        )
    for argument, value in arguments.items():
        check_by_task(value, trained, argument)
        missing = [task for task in trained if task not in value]
        if missing and argument != "sample_weight":
            raise ValueError(
                f"{argument} must have the tasks {trained}; missing: {missing}. "
                f"Received: {argument}={{{', '.join(map(repr, value))}}}"
            )
        if argument != "y_pred":  # a model may have other outputs
            check_known_keys(value, [head.task for head in heads], argument)


def _check_not_constant(weights: LossWeights, y_pred: ByName) -> None:
    if weights.are_learned and is_constant_in_jax_trace(weights.log_variances, y_pred.values()):
        raise ValueError(
            "Learned loss weights are constants of a JAX trace, so they would have no gradient. "
            "Call compute_loss in `with keras.StatelessScope(pairs):`, where `pairs` has each "
            f"variable of the model and its value. Received: y_pred={short_repr(dict(y_pred))}"
        )
