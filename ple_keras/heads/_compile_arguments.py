"""Arguments of `Model.compile` from heads."""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import keras

from ple_keras._checks import check_known_keys
from ple_keras._keras.internals import trained_and_logged
from ple_keras._typing import LearnedWeighting, MetricLike
from ple_keras.heads.head import Head
from ple_keras.losses.loss_weights import LossWeights
from ple_keras.metrics.logit_auc import LogitAUC
from ple_keras.metrics.masked_metric import MaskedMetric
from ple_keras.metrics.replaced_auc import warn_if_auc_is_replaced


def compile_arguments(
    heads: Sequence[Head],
    weights: LossWeights,
    loss_weighting: LearnedWeighting | None,
    extra_metrics: Mapping[str, Sequence[MetricLike]] | None,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the losses, loss weights and metrics of heads, with overrides.

    Args:
        heads: All heads of a TaskHeads, in order.
        weights: The variables that weigh their losses.
        loss_weighting: As for `TaskHeads`.
        extra_metrics: As for `TaskHeads.compile_kwargs`.
        overrides: Arguments of `Model.compile` that replace those of the heads.

    Raises:
        TypeError, ValueError: See `TaskHeads.compile_kwargs`.
    """
    _check_log_keys([head.task for head in heads])
    _check_extra_metrics(extra_metrics, heads, overrides)
    metrics = {head.task: _new_metrics(head, extra_metrics or {}) for head in heads}
    _warn_of_replaced_aucs(overrides.get("metrics"), metrics)
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


def _check_extra_metrics(
    extra_metrics: Mapping[str, Sequence[MetricLike]] | None,
    heads: Sequence[Head],
    overrides: Mapping[str, Any],
) -> None:
    if extra_metrics is None:
        return
    if not isinstance(extra_metrics, Mapping):
        raise TypeError(
            "extra_metrics must be a dict of metrics by task. "
            f"Received: extra_metrics={extra_metrics!r}"
        )
    check_known_keys(extra_metrics, [head.task for head in heads], "extra_metrics")
    if "metrics" in overrides:
        raise ValueError(
            "extra_metrics can't be given with metrics, which replaces all metrics of the heads. "
            f"Received: extra_metrics={dict(extra_metrics)!r}, metrics={overrides['metrics']!r}"
        )


def _new_metrics(
    head: Head, extra_metrics: Mapping[str, Sequence[MetricLike]]
) -> list[MaskedMetric]:
    if head.task in extra_metrics:
        return head.new_metrics(extra_metrics[head.task])
    return head.new_metrics()  # subclasses may override it without the argument


def _warn_of_replaced_aucs(given: Any, replaced: Mapping[str, Sequence[MaskedMetric]]) -> None:
    """Warn if the argument `metrics` has Keras's AUC in place of that of a head."""
    if not isinstance(given, Mapping):
        return
    for task, metrics in replaced.items():
        if any(isinstance(metric.metric, LogitAUC) for metric in metrics):
            of_task = keras.tree.flatten(given.get(task))
            warn_if_auc_is_replaced({f"metrics[{task!r}]": of_task}, stacklevel=5)


def _check_weights_not_learned(
    loss_weighting: LearnedWeighting | None, overrides: Mapping[str, Any]
) -> None:
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
