"""A report on the tasks of a model."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_bool, short_repr
from ple_keras._keras.batches import Batches
from ple_keras._keras.building import check_model
from ple_keras._keras.internals import get_mask
from ple_keras._keras.layers import find_layers
from ple_keras._keras.tensors import flatten_positions, to_numpy
from ple_keras._typing import Nested, Tensor
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads, find_heads, hedged_heads, trained_heads
from ple_keras.inspection.compare_predictions import Gain, paired_gains, read_by_task
from ple_keras.inspection.report_text import WIDTH, Report, Row, cells, table
from ple_keras.inspection.target_figures import head_figures, target_rows
from ple_keras.inspection.task_figures import (
    TaskFigures,
    figure_warnings,
    labels_by_position,
    metric_text,
)
from ple_keras.labels.label_arrays import join_rows, read_targets, task_labels
from ple_keras.layers.observer import Observer
from ple_keras.metrics.array_metrics import group_indices
from ple_keras.steps.observing_model import ObservingModel

FIGURES = ["relative error", "metric"]  # columns of branches without gains


@dataclass(frozen=True)
class BranchUse:
    """A branch of a hedged task.

    Attributes:
        weight: Its weight in the mixture.
        figures: The figures of its predictions.
        epoch: The epoch of the last `fit` whose weights FitHedge has kept, counted from 1; 0 for
            the weights before it. NaN if FitHedge keeps none.
    """

    weight: float
    figures: TaskFigures
    epoch: float = math.nan


@dataclass(frozen=True)
class TaskReport(Report):
    """Result of `task_report`; prints as tables.

    Attributes:
        examples: The number of examples.
        tasks: `{task: TaskFigures}`: figures on labels and predictions.
        loss_weights: `{task: weight}`: the current weights of the losses; 0 without a loss.
        branches: `{task: {branch: BranchUse}}` for the tasks of a HedgedBlock, with `weight`,
            `figures` and `epoch`. A mixture that is better than both branches shows that they
            differ. A shared branch that is better than the own one shows that other tasks help.
        gains: `{task: {branch: Gain}}`: with `new_rows=True`, the gains of the predictions over
            each branch (see `compare_predictions`).
        warnings: Warnings about predictions, and about tasks without gains.
        targets: `{task: {target: TaskFigures}}` for each BinaryHead and RegressionHead with several
            targets, by name or position, without `loss`. In `tasks`, the AUC, the RMSE, the
            relative error and the share of labels of such a head are means over its targets. 20
            targets with the smallest relative error and 20 with the largest are printed.
    """

    examples: int
    tasks: dict[str, TaskFigures]
    loss_weights: dict[str, float]
    branches: dict[str, dict[str, BranchUse]]
    gains: dict[str, dict[str, Gain]]
    warnings: list[str]
    targets: dict[str, dict[str, TaskFigures]] = field(default_factory=dict)

    def __str__(self) -> str:
        labels = [["task", "labels", "share", "label", "prediction (mean ± deviation)"]]
        errors = [["task", "loss weight", "loss", "relative error", "calibration", "metric"]]
        for task, each in self.tasks.items():
            pair = cells(each, label_mean=".3g", label_deviation=".3g")
            label = "-" if pair[0] == "-" else " ± ".join(pair)  # classes have no mean
            prediction = cells(each, prediction_mean=".3g", prediction_deviation=".3g")
            counts = cells(each, labels=",", label_share=".0%")
            labels.append([task, *counts, label, " ± ".join(prediction)])
            numbers = cells(each, loss=".4g", relative_error=".3f", calibration=".2f")
            weight = f"{self.loss_weights[task]:.3g}"
            errors.append([task, weight, *numbers, metric_text(each)])
        title = f"Tasks over {self.examples:,} examples"
        if any(each.labels > self.examples for each in self.tasks.values()):
            title += ", with labels by position of sequences"
        paragraphs = [title, table(labels), table(errors)]
        paragraphs += [table(target_rows(self.targets))] if self.targets else []
        paragraphs += [table(_branch_rows(self))] if self.branches else []
        if self.warnings:
            wrap = textwrap.TextWrapper(WIDTH, initial_indent="  ", subsequent_indent="    ")
            paragraphs.append("\n".join(["Warnings", *map(wrap.fill, self.warnings)]))
        return "\n\n".join(paragraphs)


def task_report(
    model: keras.Layer,
    x: Nested,
    y: Nested = None,
    batch_size: int | None = None,
    groups: Tensor = None,
    new_rows: bool = False,
) -> TaskReport:
    """Report labels, predictions, losses and branches of a model's tasks.

    The model runs as in `predict`. In sequences, each unmasked position counts as an example.
    Sample weights and regularization are ignored. If several processes train one model, the report
    covers the examples passed in this process.

    Args:
        model: A built model with TaskHeads that returns a dict keyed by task.
        x: Arrays, or a dict or list of arrays, as for `fit`; or, with `y=None`, batches of
            `(x, y)`: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        y: `{task: labels}` for each task that has a loss, or an array in a model with one task.
            Tasks without a loss can be omitted.
        batch_size: The number of examples per batch, only for arrays; None for 1024.
        groups: With `new_rows`, the group of each example, as for `compare_predictions`.
        new_rows: Whether the rows are like those that the model will predict, and neither its
            training nor its stop nor its mixtures used them. The report then has the gains of each
            hedged task over its branches, with paired 95% intervals. Sequences and rankings have
            none.

    Returns:
        A TaskReport: print it, or use `tasks`, `loss_weights`, `branches`, `gains`, `warnings` and
        `to_dict()`.

    Raises:
        TypeError: If `model` is not a Keras layer, `x` is neither arrays nor batches, `y` is not a
            dict of numbers, `new_rows` is not a bool, or a group is missing.
        ValueError: If `model` is not built, or has no TaskHeads with losses. If `y` lacks a task
            that has a loss, or has a label that its head does not allow. If `x` is empty, or in
            the scope of a `tf.distribute` strategy with several replicas. If `groups` has a wrong
            shape, or is given without `new_rows`.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("time")])
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, heads(SharedBottomBlock(heads, [4])(inputs)))
    >>> y = {"click": np.array([0, 1, 1, 1]), "time": np.array([1, 5, 2, np.nan])}
    >>> report = task_report(model, np.eye(4)[:, :3], y)
    >>> report.tasks["click"].label_mean, report.tasks["time"].labels
    (0.75, 3)
    """
    check_model(model)
    if not check_bool(new_rows, "new_rows") and groups is not None:
        raise ValueError(f"groups require new_rows=True. Received: groups={short_repr(groups)}")
    heads, hedged = find_heads(model), hedged_heads(model)
    y = read_targets(y, trained_heads(model))
    found, examples = _read(model, heads, Batches(x, y, batch_size))
    ids = None if groups is None else group_indices(groups, examples)
    weights = {t: w for x in find_layers(model, TaskHeads) for t, w in x.loss_weights().items()}
    logs = getattr(getattr(model, "history", None), "history", {})
    report = TaskReport(examples, {}, {}, {}, {}, [])
    for task, (labels, whole, *by_branch) in found.items():
        head = heads[task]
        figures, by_target = head_figures(head, whole, labels)
        if by_target:
            report.targets[task] = by_target
        report.tasks[task], report.loss_weights[task] = figures, weights.get(task, 0.0)
        report.warnings.extend(figure_warnings(task, figures, head))
        if task not in hedged:
            continue
        named = dict(zip(hedged[task].branch_names, by_branch))
        report.branches[task] = {}
        for name, weight in hedged[task].branch_weights().items():
            epochs = logs.get(f"hedge/{task}/{name}_epoch", [math.nan])
            of_branch, _ = head_figures(head, named[name], labels)
            report.branches[task][name] = BranchUse(weight, of_branch, epochs[-1] + 1)
        if new_rows and head.has_loss and len(head._leading_axes) == 1:
            try:
                report.gains[task] = _gains(head, labels, {"mixed": whole, **named}, ids)
            except ValueError as error:  # all labels can be in one group
                report.warnings.append(f"{task}: it has no gains. {error}")
    return report


def _read(
    model: keras.Layer, heads: Mapping[str, Head], batches: Batches
) -> tuple[dict[str, list[np.ndarray]], int]:
    """Return the labels of each task, its predictions and those of its branches, and the rows."""
    trained, observed = (
        trained_heads(model),
        ObservingModel(model, partial(_branch_predictions, heads)),
    )
    found: dict[str, list[list[np.ndarray]]] = {}
    examples = 0
    for features, labels, _ in batches:
        known = task_labels(labels, trained)
        predictions = observed.run_batch(features)
        for task in (task for task in heads if task in predictions):  # JAX sorts the predictions
            positions = labels_by_position(heads[task], known.get(task), predictions[task][0])
            found.setdefault(task, []).append([positions, *predictions[task]])
        examples += len(keras.tree.flatten(features)[0])
    joined = {task: [join_rows([*rows]) for rows in zip(*each)] for task, each in found.items()}
    return joined, examples


def _branch_predictions(
    heads: Mapping[str, Head], outputs: Mapping[str, Tensor], observer: Observer
) -> dict[str, list[Tensor]]:
    """Return the predictions of each task and its branches, as `(N, units)`.

    They are NaN at masked positions.
    """
    predictions = {}
    for task in outputs.keys() & heads.keys():
        head, values, mask = heads[task], [outputs[task]], get_mask(outputs[task])
        values += [head._predict(each) for each in observer.branches.get(task, {}).values()]
        predictions[task] = [flatten_positions(each, mask, math.nan) for each in values]
    return predictions


def _gains(
    head: Head, labels: np.ndarray, predictions: Mapping[str, np.ndarray], groups: np.ndarray | None
) -> dict[str, Gain]:
    """Return the gains of the first predictions of a task over each branch.

    Raises:
        ValueError: If a label lacks some of its numbers, or intervals have too few rows or groups.
    """

    def losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
        pair = (ops.convert_to_tensor(x.reshape(len(x), -1).astype("float32")) for x in (y, p))
        return np.asarray(to_numpy(head.example_losses(*pair)).reshape(len(y), -1).mean(axis=1))

    missing = np.isnan(labels)
    if (missing.any(axis=-1) & ~missing.all(axis=-1)).any():
        raise ValueError("Rows with some of several labels would be left out")
    task, family = head.task, head._row_family() if labels.shape[-1] == 1 else None
    by_name = {name: {task: each} for name, each in predictions.items()}
    by_task = read_by_task({task: None}, by_name, y={task: labels})
    return paired_gains(by_task, [*by_name], {task: family or losses}, groups)[task]


def _branch_rows(report: TaskReport) -> Iterator[Row]:
    figures = ["gain, %", "95% interval", "statement"] if report.gains else FIGURES
    yield "task", "branch", "weight", "epoch", *figures
    for task, branches in report.branches.items():
        for index, (branch, each) in enumerate(branches.items()):
            row = ["" if index else task, branch, *cells(each, weight=".2f", epoch=".0f")]
            if gain := report.gains.get(task, {}).get(branch):
                *numbers, statement = gain._cells()
                yield [*row, *numbers, f"{statement}: {gain.reason}"]
            elif report.gains:
                yield [*row, "-", "-", "no gain"]
            else:
                numbers = cells(each.figures, relative_error=".3f")
                yield [*row, *numbers, metric_text(each.figures)]
