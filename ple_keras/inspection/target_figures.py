"""Figures on each target of a head with several, and their table."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ple_keras.heads.head import Head
from ple_keras.inspection.report_text import Row, cells
from ple_keras.inspection.task_figures import TaskFigures, family_figures, metric_text, task_figures

MAX_SHOWN = 20  # targets with the smallest relative error, and with the largest


def head_figures(
    head: Head, predictions: np.ndarray, labels: np.ndarray
) -> tuple[TaskFigures, dict[str, TaskFigures]]:
    """Return the figures of a head, and of each of its targets, if it has several.

    Args:
        head: The head of the task.
        predictions: As for `task_figures`.
        labels: As for `task_figures`.
    """
    whole = task_figures(head, predictions, labels)
    family = head._family()
    if head.units == 1 or family.axes > 1 or labels.shape != predictions.shape:
        return whole, {}
    targets = {
        name: family_figures(family, p[:, None], y[:, None])
        for name, p, y in zip(head._target_names(), predictions.T, labels.T)
    }
    means: dict[str, Any] = {"relative_error_deviation": math.nan}
    for name in ("label_share", "auc", "rmse", "relative_error"):
        values = [getattr(each, name) for each in targets.values()]
        known = [value for value in values if math.isfinite(value)]
        means[name] = sum(known) / len(known) if known else math.nan
    return replace(whole, **means), targets


def target_rows(by_task: Mapping[str, Mapping[str, TaskFigures]]) -> Iterator[Row]:
    """Yield the rows of a table of targets, sorted by their relative error."""
    yield "task", "target", "labels", "share", "label", "relative error", "metric"
    for task, targets in by_task.items():
        errors = {name: each.relative_error for name, each in targets.items()}
        known = sorted((x for x in errors if math.isfinite(errors[x])), key=errors.__getitem__)
        shown = [*known, *(name for name in errors if not math.isfinite(errors[name]))]
        if len(shown) > 2 * MAX_SHOWN:
            shown = [*dict.fromkeys([*known[:MAX_SHOWN], *known[-MAX_SHOWN:]])]
        for index, name in enumerate(shown):
            each = targets[name]
            counts = cells(each, labels=",", label_share=".0%", label_mean=".3g")
            yield [
                "" if index else task,
                name,
                *counts,
                *cells(each, relative_error=".3f"),
                metric_text(each),
            ]
        if len(shown) < len(targets):
            yield ["", f"{len(shown)} of {len(targets)}; all in to_dict()", *[""] * 5]
