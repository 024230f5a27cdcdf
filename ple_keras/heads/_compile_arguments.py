"""Arguments of `Model.compile` from heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ple_keras._checks import check_by_task, check_known_keys, check_not_negative, warn_user
from ple_keras._keras.internals import trained_and_logged
from ple_keras._keras.names import stable_name
from ple_keras._typing import LearnedWeighting, MetricLike
from ple_keras.heads.head import BinaryHead, Head
from ple_keras.heads.product_head import ProductHead
from ple_keras.losses.joint_losses import LossWeights
from ple_keras.metrics.masked_metric import MaskedMetric, check_metrics, unused_name


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
    _check_arguments_by_task({**overrides, "extra_metrics": extra_metrics}, heads)
    extra = extra_metrics or {}
    metrics = {  # subclasses may override `new_metrics` without the argument
        head.task: head.new_metrics(extra[head.task]) if head.task in extra else head.new_metrics()
        for head in heads
    }
    masked = _masked(overrides, {head.task: head for head in heads})
    _refuse_weights_of_branches(heads, overrides)
    if {"loss", "loss_weights"} & set(overrides):
        if loss_weighting:
            raise ValueError(
                "loss and loss_weights can't be overridden if loss_weighting is "
                f"{loss_weighting!r}. Received: overrides={list(overrides)}"
            )
        losses: dict[str, Any] = {head.task: head.new_loss() for head in heads if head.has_loss}
        masked["loss_weights"] = _all_loss_weights(heads, masked)
    else:
        pairs = {
            head.task: trained_and_logged(*head.new_joint_losses(weights, index))
            for index, head in enumerate(heads)
            if head.has_loss
        }
        losses = {task: pair for task, (pair, _) in pairs.items()}
        masked["loss_weights"] = {task: fixed for task, (_, fixed) in pairs.items()}
    arguments = {"loss": losses, "metrics": metrics, **masked}
    _warn_of_auc_of_keras(arguments["metrics"], heads)
    return arguments


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


def _check_arguments_by_task(arguments: Mapping[str, Any], heads: Sequence[Head]) -> None:
    """Check the dicts by task. Keras would assign a list to the tasks in alphabetical order."""
    tasks = [head.task for head in heads]
    for argument in ("loss", "loss_weights", "metrics", "weighted_metrics", "extra_metrics"):
        value = arguments.get(argument)
        if value is not None:
            check_known_keys(check_by_task(value, tasks, argument), tasks, argument)
    extra_metrics = arguments["extra_metrics"]
    if extra_metrics is not None and "metrics" in arguments:
        raise ValueError(
            "extra_metrics can't be given with metrics, which replaces all metrics of the heads. "
            f"Received: extra_metrics={dict(extra_metrics)!r}, metrics={arguments['metrics']!r}"
        )


def _refuse_weights_of_branches(heads: Sequence[Head], overrides: Mapping[str, Any]) -> None:
    """Check that no weights of Keras scale the gradients of branches."""
    weights = overrides.get("loss_weights")
    if weights and any(head.branch_names for head in heads):
        raise ValueError(
            "loss_weights must not be given with the branches of a HedgedBlock, since Keras would "
            "multiply their gradients too. Set loss_weight of the heads, which scales the value of "
            f"the loss alone. Received: loss_weights={weights!r}"
        )


def _masked(overrides: Mapping[str, Any], heads: Mapping[str, Head]) -> dict[str, Any]:
    """Return overrides whose losses and metrics are computed over labelled examples."""
    masked = dict(overrides)
    for argument in {"metrics", "weighted_metrics"} & set(overrides):
        masked[argument] = overrides[argument] and {
            task: _masked_metrics(heads[task], metrics, f"{argument}[{task!r}]")
            for task, metrics in overrides[argument].items()
            if metrics is not None
        }
    if overrides.get("loss"):
        masked["loss"] = {
            task: _masked_losses(heads[task], loss) for task, loss in overrides["loss"].items()
        }
    return masked


def _masked_losses(head: Head, loss: Any) -> Any:
    if isinstance(loss, list | tuple):
        return [_masked_losses(head, each) for each in loss]
    return None if loss is None else head.masked_loss(loss)


def _masked_metrics(head: Head, metrics: Any, argument: str) -> list[MaskedMetric]:
    """Return metrics that wrap those given, which are not copied, so that they have the results."""
    masked: list[MaskedMetric] = []
    given = metrics if isinstance(metrics, list | tuple) else [metrics]
    for metric in check_metrics(given, argument):
        if not isinstance(metric, MaskedMetric):
            name = unused_name(stable_name(metric), [other.name for other in masked])
            metric = head.masked_metric(metric, name)
            metric.display_name = f"{head.task}_{name}"
        masked.append(metric)
    return masked


def _all_loss_weights(heads: Sequence[Head], overrides: Mapping[str, Any]) -> Any:
    """Return the loss weights of each task that has a loss; those of the head are the default."""
    given = overrides.get("loss_weights")
    loss = overrides.get("loss", {head.task: None for head in heads if head.has_loss})
    if loss is None:
        return given
    check_known_keys(given or {}, [*loss], "loss_weights")
    weights = {head.task: head.loss_weight for head in heads if head.task in loss}
    weights |= {task: weight for task, weight in (given or {}).items() if weight is not None}
    return {
        task: _weights_of_losses(weight, loss[task], f"loss_weights[{task!r}]")
        for task, weight in weights.items()
    }


def _weights_of_losses(weight: Any, loss: Any, argument: str) -> Any:
    """Return the weight of a task's loss, or one for each of several losses, as Keras requires."""
    is_by_loss = isinstance(weight, list | tuple)
    for each in weight if is_by_loss else [weight]:
        check_not_negative(each, argument)
    return weight if is_by_loss or not isinstance(loss, list | tuple) else [weight] * len(loss)


def _warn_of_auc_of_keras(
    metrics: Mapping[str, Sequence[MaskedMetric]] | None, heads: Sequence[Head]
) -> None:
    """Warn if the "auc" of a binary task is Keras's in place of a LogitAUC."""
    for head in heads:
        of_task = (metrics or {}).get(head.task, ())
        auc = next((metric.metric for metric in of_task if metric.name == "auc"), None)
        auc = getattr(auc, "metric", auc)  # a MaskedMetric of the head itself
        if isinstance(head, BinaryHead | ProductHead) and type(auc) is keras.metrics.AUC:
            warn_user(
                f"{head.task!r} has an 'auc' of Keras in place of the LogitAUC of the head. If "
                "positives are rare, it is wrong, because its thresholds are evenly spaced in "
                "[0, 1]. Use ple_keras.LogitAUC(), or give it another name: "
                "keras.metrics.AUC(name='keras_auc')"
            )
