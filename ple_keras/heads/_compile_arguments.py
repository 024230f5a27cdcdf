"""The arguments of `Model.compile` that heads give."""

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
    """The losses, loss weights and metrics of heads, and overrides of them.

    Args:
        heads: All heads of a TaskHeads, in order.
        weights: The weights of their losses.
        loss_weighting: How the weights are learned; None if they are not.
        overrides: Arguments of `Model.compile` that replace those of the heads.

    Raises:
        ValueError: as `TaskHeads.compile_kwargs`.
    """
    _check_log_keys([head.task for head in heads])
    metrics = {head.task: head.new_metrics() for head in heads}
    if {"loss", "loss_weights"} & set(overrides):
        _refuse_to_replace_learned(loss_weighting, overrides)
        losses: dict[str, Any] = {head.task: head.new_loss() for head in heads if head.has_loss}
        given = _with_all_weights(heads, overrides)
        return {"loss": losses, "metrics": metrics, **given}
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
    """Refuse tasks whose figures Keras would log under keys of validation."""
    for task in tasks:
        if task == "val" or f"val_{task}" in tasks:
            other = "val" if task == "val" else f"val_{task}"
            raise ValueError(
                f"heads must not have a task {other!r}, whose training figures Keras would log "
                f"under keys of validation, such as {other}_loss: rename the task. "
                f"Received: tasks={list(tasks)}"
            )


def _refuse_to_replace_learned(loss_weighting: str | None, overrides: Mapping[str, Any]) -> None:
    if loss_weighting:
        raise ValueError(
            f"loss and loss_weights can't be replaced where loss_weighting is "
            f"{loss_weighting!r}. Received: overrides={list(overrides)}"
        )


def _with_all_weights(heads: Sequence[Head], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """With a weight for each task that has a loss, as Keras wants; the heads' by default."""
    loss, given = overrides.get("loss", {}), overrides.get("loss_weights", {})
    if not isinstance(loss, Mapping) or not isinstance(given, Mapping | NoneType):
        return {"loss_weights": None, **overrides}
    tasks = list(loss) or [head.task for head in heads if head.has_loss]
    check_known_keys(given or {}, tasks, "loss_weights")
    of_heads = {head.task: head.loss_weight for head in heads}
    weights = {task: of_heads.get(task, 1.0) for task in tasks}
    return {**overrides, "loss_weights": {**weights, **(given or {})}}
