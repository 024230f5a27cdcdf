"""Losses and metrics as `Model.compile` takes them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras


def check_loss(loss: Any) -> Any:
    """A loss: a name, a function, an object, an object's serialized form, or None."""
    if isinstance(loss, Mapping) and "class_name" in loss:
        return keras.saving.deserialize_keras_object(loss)
    message = (
        "loss must be the name of a Keras loss, a function or a keras.losses.Loss object. "
        f"Received: loss={loss!r}"
    )
    if isinstance(loss, type | Mapping):
        raise TypeError(message)
    try:
        keras.losses.get(loss)
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    return loss


def check_metrics(metrics: Any) -> list[Any]:
    """Metrics: names, functions, objects, or objects' serialized forms."""
    if metrics is None:
        return []
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise TypeError(f"metrics must be a sequence of metrics. Received: metrics={metrics!r}")
    return [_check_metric(metric) for metric in metrics]


def _check_metric(metric: Any) -> Any:
    if isinstance(metric, Mapping) and "class_name" in metric:
        return keras.saving.deserialize_keras_object(metric)
    if isinstance(metric, str):
        try:
            keras.metrics.get(metric)
        except ValueError as error:
            raise ValueError(
                f"metrics must hold names that Keras knows. Received: metrics=[..., {metric!r}]"
            ) from error
    elif isinstance(metric, type) or not callable(metric):
        raise TypeError(
            "metrics must hold names, functions and keras.metrics.Metric objects. "
            f"Received: metrics=[..., {metric!r}]"
        )
    return metric


def named_copies(metrics: Sequence[Any]) -> list[Any]:
    """New metrics from templates; Keras itself names those given by name or as a function."""
    copies: list[Any] = []
    taken: set[str] = set()
    for metric in metrics:
        if isinstance(metric, keras.Metric):
            name = _free_name(_stable_name(metric), taken)
            taken.add(name)
            metric = type(metric).from_config({**metric.get_config(), "name": name})
        copies.append(metric)
    return copies


def _stable_name(metric: Any) -> str:
    """The metric's name, without the number that Keras counts up from object to object."""
    name: str = metric.name
    class_name = re.sub(
        r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__
    )
    return re.sub(r"_\d+$", "", name) if name.startswith(f"{class_name.lower()}_") else name


def _free_name(name: str, taken: set[str]) -> str:
    names = [name, *(f"{name}_{i}" for i in range(1, len(taken) + 1))]
    return next(free for free in names if free not in taken)
