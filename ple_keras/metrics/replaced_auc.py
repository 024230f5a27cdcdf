"""A warning about Keras's AUC under the key of LogitAUC."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from ple_keras._keras.names import stable_name
from ple_keras._typing import MetricLike

_is_silent = ContextVar("is_silent", default=False)


def warn_if_auc_is_replaced(
    metrics: Mapping[str, Iterable[MetricLike]], stacklevel: int = 3
) -> None:
    """Warn if metrics that replace a LogitAUC have Keras's AUC under its key, "auc".

    Args:
        metrics: The metrics of a task, by the name of the caller's argument. The first one named
            "auc" has the key.
        stacklevel: As for `warnings.warn`; by default the line that calls the caller.
    """
    named = ((argument, metric) for argument in metrics for metric in metrics[argument])
    argument, first = next((pair for pair in named if stable_name(pair[1]) == "auc"), ("", None))
    if _is_silent.get() or not _is_auc_of_keras(first):
        return
    warnings.warn(
        f"{argument} has an 'auc' of Keras, which replaces the LogitAUC of the head under the same "
        "key. If positives are rare, Keras's AUC is wrong, because its thresholds are evenly "
        "spaced in [0, 1]. Use ple_keras.LogitAUC(), or give it another name: "
        f"keras.metrics.AUC(name='keras_auc'). Received: {argument}=[..., {first!r}]",
        stacklevel=stacklevel,
    )


def _is_auc_of_keras(metric: Any) -> bool:
    metric = getattr(metric, "metric", metric)  # of a MaskedMetric
    return metric == "auc" or type(metric) is keras.metrics.AUC


@contextmanager
def no_warning_of_replaced_auc() -> Iterator[None]:
    """Suppress the warning in this thread, for a head from a config, which has shown it before."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)
