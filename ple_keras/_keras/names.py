"""Names of layers, losses and metrics."""

import re

import keras

from ple_keras._typing import LossLike, MetricLike


def automatic_name(prefix: str) -> str:
    """Return a name for a layer, numbered like Keras's automatic names."""
    number: int = keras.backend.get_uid(prefix) - 1
    return f"{prefix}_{number}" if number else prefix


def stable_name(named: LossLike | MetricLike) -> str:
    """Return the name of a loss or metric without the number that Keras appends."""
    if isinstance(named, str):
        return named
    if isinstance(named, keras.metrics.Mean) and named.name == "mean":  # KerasRS metrics are Means
        return to_snake_case(type(named).__name__)
    name = str(getattr(named, "name", None) or getattr(named, "__name__", type(named).__name__))
    is_automatic = name.startswith(f"{to_snake_case(type(named).__name__)}_")
    return re.sub(r"_\d+$", "", name) if is_automatic else name


def to_snake_case(name: str) -> str:
    """Convert a class name as Keras does: `MeanSquaredError` to `mean_squared_error`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
