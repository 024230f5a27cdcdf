"""A report on a model of a frame, for rows that are new to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from keras import ops

from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import ByName
from ple_keras.heads.binary_heads import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.multiclass_head import MulticlassHead
from ple_keras.heads.regression_heads import variance_power
from ple_keras.heads.task_heads import find_heads
from ple_keras.inspection._report_text import Report, cells, report_text, table
from ple_keras.inspection.compare_predictions import Gain, compare_predictions
from ple_keras.inspection.task_figures import (
    TaskFigures,
    labels_by_position,
    metric_text,
    task_figures,
)
from ple_keras.inspection.task_report import branch_predictions
from ple_keras.losses.loss_kinds import loss_name
from ple_keras.metrics.array_metrics import half_deviances
from ple_keras.steps.observing_model import ObservingModel
from ple_keras.tabular.stopping import BATCH_SIZE


@dataclass(frozen=True)
class TabularReport(Report):
    """Result of `TabularModel.report`; prints as tables.

    Attributes:
        rows: The number of rows.
        tasks: `{column: TaskFigures}`: figures on labels and predictions.
        weights: `{column: {branch: weight}}`: the mixtures.
        gains: `{column: {branch: Gain}}`: the gains of the predictions over each branch
            (see `compare_predictions`).
    """

    rows: int
    tasks: dict[str, TaskFigures]
    weights: dict[str, dict[str, float]]
    gains: dict[str, dict[str, Gain]]

    def __str__(self) -> str:
        tasks = [["task", "labels", "relative error", "metric"]]
        for task, figures in self.tasks.items():
            numbers = cells(figures, labels=",", relative_error=".3f")
            tasks.append([task, *numbers, metric_text(figures)])
        gains = [["task", "branch", "weight", "gain, %", "95% interval", "than the branch"]]
        for task, by_branch in self.gains.items():
            for branch, each in by_branch.items():
                ends = " to ".join(cells(each, low="+.1f", high="+.1f")).replace("- to -", "-")
                numbers = [f"{self.weights[task][branch]:.2f}", *cells(each, gain="+.1f")]
                gains.append([task, branch, *numbers, ends, each.statement])
        tables = [table(tasks), *([table(gains)] if self.gains else [])]
        return report_text([f"Predictions of {self.rows:,} rows", *tables], [])


def report_predictions(
    model: keras.Model,
    x: ByName,
    labels: ByName,
    columns: Mapping[str, str],
    groups: np.ndarray | None,
) -> TabularReport:
    """Return the report of a model.

    Args:
        model: The model.
        x: Its inputs.
        labels: The labels of each task.
        columns: The column of each task.
        groups: The group of each row; None for independent rows.
    """
    heads = find_heads(model)
    observed = ObservingModel(model, partial(branch_predictions, heads))
    batches = [observed.run_batch(batch) for batch, *_ in Batches(x, batch_size=BATCH_SIZE)]
    report = TabularReport(len(next(iter(labels.values()))), {}, {}, {})
    for task, column in columns.items():
        head = heads[task]
        predicted, *branches = (
            np.concatenate(parts) for parts in zip(*(batch[task] for batch in batches))
        )
        known = labels_by_position(head, labels[task], predicted)
        report.tasks[column] = task_figures(head, predicted, known)
        if report.tasks[column].labels < 2 or not branches:
            continue
        weights = head.branch_weights()
        pairs = [("", predicted), *zip(weights, branches)]
        by_name = {name: {column: p} for name, p in pairs if not np.isnan(p).all()}
        loss = {column: _row_loss(head)}
        found = compare_predictions({column: known}, by_name, loss, groups)
        report.weights[column], report.gains[column] = weights, found.gains[column]
    return report


def _row_loss(head: Head) -> str | Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the loss of each row, for `compare_predictions`."""
    if isinstance(head, BinaryHead | MulticlassHead):
        return "binary" if isinstance(head, BinaryHead) else "multiclass"
    if loss_name(head.loss) == "mean_squared_error":
        return "regression"
    if (power := variance_power(head)) is not None:
        return partial(half_deviances, power=power)

    def losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
        pair = (ops.convert_to_tensor(each[:, None].astype("float32")) for each in (y, p))
        return to_numpy(head.example_losses(*pair))

    return losses
