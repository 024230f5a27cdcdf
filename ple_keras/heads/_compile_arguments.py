"""Arguments of `Model.compile` from heads."""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from ple_keras._checks import check_known_keys
from ple_keras._keras.internals import trained_and_logged
from ple_keras.heads.head import Head
from ple_keras.losses.loss_weights import LossWeights


def compile_arguments(
    heads: Sequence[Head],
    weights: LossWeights,
    loss_weighting: str | None,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the losses, loss weights and metrics of heads, with overrides.

    Args:
        heads: All heads of a TaskHeads, in order.
        weights: The variables that weigh their losses.
        loss_weighting: As for `TaskHeads`.
        overrides: Arguments of `Model.compile` that replace those of the heads.

    Raises:
        ValueError: See `TaskHeads.compile_kwargs`.
    """
    _check_log_keys([head.task for head in heads])
    metrics = {head.task: head.new_metrics() for head in heads}
    if {"loss", "loss_weights"} & set(overrides):
        _check_weights_not_learned(loss_weighting, overrides)
        losses: dict[str, Any] = {head.task: head.new_loss() for head in heads if head.has_loss}
        replaced = _with_all_loss_weights(heads, overrides)
        return {"loss": losses, "metrics": metrics, **replaced}
    weights.new_key()
    pairs = {
        head.task: trained_and_logged(*head.new_joint_losses(weights, index))
        for index, head in enumerate(heads)
        if head.has_loss
    }
    return {
        "loss": {task: losses for task, (losses, _) in pairs.items()},
        "loss_weights": {task: fixed for task, (_, fixed) in pairs.items()},
        "metrics": metrics,
        **overrides,
    }


def _check_log_keys(tasks: Sequence[str]) -> None:
    """Check that the training logs of no task have keys of validation logs."""
    for task in tasks:
        if task == "val" or f"val_{task}" in tasks:
            other = "val" if task == "val" else f"val_{task}"
            raise ValueError(
                f"heads must not have a task {other!r}, because its training logs would have keys "
                f"of validation logs, such as {other}_loss. Rename the task. "
                f"Received: tasks={list(tasks)}"
            )


def _check_weights_not_learned(loss_weighting: str | None, overrides: Mapping[str, Any]) -> None:
    if loss_weighting:
        raise ValueError(
            f"loss and loss_weights can't be overridden if loss_weighting is {loss_weighting!r}. "
            f"Received: overrides={list(overrides)}"
        )


def _with_all_loss_weights(heads: Sequence[Head], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `overrides` with a loss weight for each task that has a loss, as Keras requires.

    The default of a loss weight is that of the head.
    """
    loss, given = overrides.get("loss", {}), overrides.get("loss_weights", {})
    if not isinstance(loss, Mapping) or not isinstance(given, Mapping | NoneType):
        return {"loss_weights": None, **overrides}
    tasks = list(loss) or [head.task for head in heads if head.has_loss]
    check_known_keys(given or {}, tasks, "loss_weights")
    head_weights = {head.task: head.loss_weight for head in heads}
    weights = {task: head_weights.get(task, 1.0) for task in tasks}
    return {**overrides, "loss_weights": {**weights, **(given or {})}}
