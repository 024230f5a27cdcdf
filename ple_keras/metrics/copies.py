"""Checks and copies of metrics, given as for `Model.compile`."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ple_keras._keras.copying import refuse_lost_arguments
from ple_keras._keras.internals import tensorflow_not_imported
from ple_keras._keras.names import stable_name
from ple_keras._keras.registration import register
from ple_keras._typing import MetricLike, Tensor


def check_metrics(metrics: Sequence[MetricLike] | None, argument: str = "metrics") -> list[Any]:
    """Return metrics from names, functions, objects or serialized objects.

    Args:
        metrics: The metrics; None stands for none.
        argument: The name of the caller's argument, for messages.
    """
    if metrics is None:
        return []
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise TypeError(
            f"{argument} must be a sequence of metrics. Received: {argument}={metrics!r}"
        )
    return [_check_metric(metric, argument) for metric in metrics]


def _check_metric(metric: MetricLike | Mapping[str, object], argument: str) -> Any:
    if isinstance(metric, Mapping) and "class_name" in metric:
        return keras.saving.deserialize_keras_object(metric)
    if isinstance(metric, str):
        try:
            keras.metrics.get(metric)
        except ValueError as error:
            raise ValueError(
                f"{argument} given by name must be Keras metrics. "
                f"Received: {argument}=[..., {metric!r}]"
            ) from error
    elif isinstance(metric, type) or not callable(metric):
        raise TypeError(
            f"{argument} must be names, functions or keras.metrics.Metric objects. "
            f"Received: {argument}=[..., {metric!r}]"
        )
    return metric


def named_copies(metrics: Mapping[str, Sequence[MetricLike]]) -> list[keras.Metric]:
    """Return new metrics from templates, with names that are the same in every run.

    Args:
        metrics: The templates, by the name of the caller's argument. A name that is taken gets a
            number.
    """
    copies: list[Any] = []
    for argument, templates in metrics.items():
        for template in templates:
            name = unused_name(stable_name(template), [copy.name for copy in copies])
            copies.append(new_metric(template, name, argument))
    return copies


def new_metric(template: MetricLike, name: str, argument: str = "metrics") -> keras.Metric:
    """Return a new metric from a name, a function or a metric, as `Model.compile` does."""
    known = accuracy if template in ("accuracy", "acc") else keras.metrics.get(template)
    if hasattr(known, "named_copy"):
        return known.named_copy(name)
    if not isinstance(known, keras.Metric):
        return keras.metrics.MeanMetricWrapper(known, name=name)
    try:
        with tensorflow_not_imported():
            refuse_lost_arguments(known)
            return type(known).from_config({**known.get_config(), "name": name})
    except Exception as error:
        raise ValueError(
            f"{argument} must be copyable through their config. Implement get_config, and register "
            "custom parts with keras.saving.register_keras_serializable: "
            f"{error} Received: {argument}=[..., {known!r}]"
        ) from error


@register
def accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compute "accuracy" as Keras does: binary, sparse or categorical, by the widths."""
    if y_pred.shape[-1] == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)


def unused_name(name: str, taken: Sequence[str]) -> str:
    """Return a name that is not taken, with a number if necessary."""
    names = [name, *(f"{name}_{i}" for i in range(1, len(taken) + 1))]
    return next(free for free in names if free not in taken)
