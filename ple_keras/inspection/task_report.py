"""A report on the tasks of a model, with warnings."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import length_hint
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.batches import DEFAULT_SIZE, Batches, is_dataset
from ple_keras._keras.building import check_model
from ple_keras._keras.internals import get_mask
from ple_keras._keras.layers import find_layers
from ple_keras._typing import Nested, Tensor
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads, find_heads, trained_heads
from ple_keras.inspection._report_text import Report, Row, cells, report_text, table
from ple_keras.inspection.task_figures import (
    Epochs,
    TaskFigures,
    epoch_warnings,
    figure_warnings,
    gap_warnings,
    labels_by_position,
    metric_text,
    task_figures,
)
from ple_keras.inspection.task_gradients import Conflict, TaskGradients, parts_before_heads
from ple_keras.labels.label_arrays import join_rows, task_labels
from ple_keras.layers.observer import Observer
from ple_keras.losses.loss_kinds import USUAL_DEVIATION
from ple_keras.steps.observing_model import ObservingModel, flatten_positions

MAX_GRADIENTS = 64  # batches
MIN_BATCHES = 32  # of arrays, by default, so that cosines are averaged over 16 pairs
MIN_SIZE = 32  # of these batches
# Of the gradient on shared parts. Next to a loss of the same size, a loss weight of 10, a share of
# 0.9, cost income .01 AUC in a shared bottom, and a weight of 1 cost nothing (docs/results).
DOMINANT_SHARE = 0.9
SMALL_SHARE = 0.1  # of an equal share
# Of conflicts. Trends were .9 before training, .3 to .8 while the loss fell, and below .25 when
# tasks no longer gained from more epochs. Cosines were then above -.14 in healthy models, and
# -.3 to -.5 for tasks that one unit can't serve (tests/inspection/task_models.py).
SETTLED_TREND = 0.25
CONFLICT_COSINE = -0.2
CONFLICT_PAIRS = 12
CONFLICT_LABELS = 1000
CONFLICT_SIGNIFICANT = 4  # standard errors of a mean over few pairs
LAST_SHARE = 0.2  # of the epochs
A_HEDGE = "Try a HedgedBlock, in which each task also has its own branch."


@dataclass(frozen=True)
class TaskTraining:
    """Share of a task in the training of a model.

    Attributes:
        loss_weight: The current weight of the task's loss; 0 if it is not trained.
        gradient_share: The task's share of the gradients on shared parts: the root mean square over
            the batches of the norm of its weighted loss's gradient, divided by the sum over the
            tasks. Shared parts are the experts, layers and tables before the heads that at least
            two tasks train. NaN without such parts.
    """

    loss_weight: float
    gradient_share: float


@dataclass(frozen=True)
class BranchUse:
    """A branch of a hedged task.

    Attributes:
        weight: Its weight in the mixture.
        figures: The figures of its predictions, on the validation data if given, else on `x`.
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
        training: `{task: TaskTraining}`, with `loss_weight` and `gradient_share`.
        conflicts: `{(task, task): Conflict}`, with `cosine`, `error` and `pairs`: the mean cosine
            between the gradients of two tasks on shared parts, in pairs of batches.
        trend: A `Conflict` of the sums over the tasks: a cosine near 0 if training has settled.
        validation: Like `tasks`, for the validation data; empty without them.
        branches: `{task: {branch: BranchUse}}` for the tasks of a HedgedBlock, with `weight` and
            `figures`. A mixture that is better than both branches shows that they differ. A shared
            branch that is better than the own one shows that other tasks help.
        warnings: Warnings about labels, predictions and gradients, each with remedies.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("time")])
    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, heads(SharedBottomBlock(heads, [4])(inputs)))
    >>> y = {"click": np.array([0, 1, 0]), "time": np.array([1.0, 5.0, np.nan])}
    >>> report = task_report(model, np.ones((3, 2)), y)
    >>> isinstance(report, TaskReport), report.examples, report.tasks["time"].labels
    (True, 3, 2)
    """

    examples: int
    tasks: dict[str, TaskFigures]
    training: dict[str, TaskTraining]
    conflicts: dict[tuple[str, str], Conflict]
    trend: Conflict
    validation: dict[str, TaskFigures]
    branches: dict[str, dict[str, BranchUse]]
    warnings: list[str]

    def __str__(self) -> str:
        tables = [*_figure_rows(self), _training_rows(self)]
        tables += [_conflict_rows(self)] if self.conflicts else []
        tables += [_branch_rows(self)] if self.branches else []
        title = f"Tasks over {self.examples:,} examples"
        return report_text([title, *map(table, tables)], self.warnings)


def task_report(
    model: keras.Layer,
    x: Nested,
    y: Nested = None,
    validation: Any = None,
    batch_size: int | None = None,
) -> TaskReport:
    """Report labels, predictions, losses and gradients of a model's tasks, with warnings.

    Pass training data as `x` and `y`, since the report computes training gradients, and other data
    as `validation`. The model runs as in `predict`: without dropout, and without changes to weights
    and statistics. In sequences, each unmasked position counts as an example. Sample weights and
    regularization are ignored. If several processes train one model, the report covers the examples
    passed in this process.

    Gradients are computed on at most 64 batches, evenly spaced if the number of batches is known,
    else the first ones. They omit variables with over ten million numbers, such as large tables.

    Args:
        model: A built model with TaskHeads that returns a dict keyed by task.
        x: Arrays, or a dict or list of arrays, as for `fit`; or, with `y=None`, batches of
            `(x, y)`: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        y: `{task: labels}` for each task that has a loss, or an array in a model with one task.
            Tasks without a loss can be omitted.
        validation: `(x, y)` of arrays, or batches, for the same figures on other data. With the
            validation data of `fit`, a warning names tasks that were better in an earlier epoch,
            unless FitHedge has kept the best epochs of their branches.
        batch_size: The number of examples per gradient, only for arrays. By default, 1/32 of the
            examples, at least 32 and at most 1024.

    Returns:
        A TaskReport: print it, or use `tasks`, `training`, `conflicts`, `validation`, `warnings`
        and `to_dict()`.

    Raises:
        TypeError: If `model` is not a Keras layer, `x` or `validation` is neither arrays nor
            batches, or `y` is not a dict of numbers.
        ValueError: If `model` is not built, or has no TaskHeads with losses. If `y` lacks a task
            that has a loss, or has a label that its head does not allow. If `x` is empty, or in
            the scope of a `tf.distribute` strategy with several replicas.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, heads(SharedBottomBlock(heads, [4])(inputs)))
    >>> click = np.array([0, 1, 1, 1])
    >>> report = task_report(model, np.eye(4)[:, :3], {"click": click, "buy": click})
    >>> report.tasks["click"].label_mean, report.tasks["buy"].labels
    (0.75, 4)
    >>> sorted(report.training["buy"].__dict__)
    ['gradient_share', 'loss_weight']
    """
    check_model(model)
    heads, trained = find_heads(model), trained_heads(model)
    parts = parts_before_heads(model) if len(trained) > 1 else []
    gradients = TaskGradients(model, trained, parts)
    observed = ObservingModel(model, partial(branch_predictions, heads))
    if batch_size is None and not is_dataset(x):
        rows = max((len(leaf) for leaf in keras.tree.flatten(x) if np.ndim(leaf)), default=0)
        batch_size = min(max(rows // MIN_BATCHES, MIN_SIZE), DEFAULT_SIZE)
    examples, figures = _read_figures(observed, Batches(x, y, batch_size), gradients)
    validation_figures: dict[str, list[TaskFigures]] = {}
    if validation is not None:
        data = validation[:2] if isinstance(validation, tuple) else [validation]
        _, validation_figures = _read_figures(observed, Batches(*data))
    tasks = {task: whole for task, (whole, *_) in figures.items()}
    validated = {task: whole for task, (whole, *_) in validation_figures.items()}
    history = getattr(model, "history", None)
    logs = getattr(history, "history", {})
    branches = _branch_uses(logs, heads, validation_figures or figures)
    weights = {t: w for x in find_layers(model, TaskHeads) for t, w in x.loss_weights().items()}
    # Weights do not scale the gradients of branches.
    factors = {task: float(w > 0) if task in branches else w for task, w in weights.items()}
    shares = gradients.shares(factors)
    training = {t: TaskTraining(weights.get(t, 0.0), shares.get(t, math.nan)) for t in tasks}
    conflicts, trend = gradients.conflicts(), gradients.trend(factors)
    found = tasks, training, conflicts, trend, validated, branches
    report = TaskReport(examples, *found, [])
    report.warnings.extend(_warnings(report, logs, heads))
    report.warnings.extend(_late_warnings(report, history))
    return report


def branch_predictions(
    heads: Mapping[str, Head], outputs: Mapping[str, Tensor], observer: Observer
) -> dict[str, list[Tensor]]:
    """Return the predictions of each task and its branches, as `(N, units)`.

    They are NaN at masked positions.
    """
    predictions = {}
    for task in outputs.keys() & heads.keys():
        head, values, mask = heads[task], [outputs[task]], get_mask(outputs[task])
        if task in observer.branches:
            stack = head._predict(observer.branches[task][1:])
            values += ops.unstack(stack, len(head.branches.names))
        predictions[task] = [flatten_positions(each, mask, math.nan) for each in values]
    return predictions


def _read_figures(
    observed: ObservingModel, batches: Batches, gradients: TaskGradients | None = None
) -> tuple[int, dict[str, list[TaskFigures]]]:
    """Return the number of examples, and the figures of each task and its branches.

    Args:
        observed: The model.
        batches: Batches of `(x, y)`.
        gradients: Gets evenly spaced batches if their number is known, else the first ones, all
            of the same size.
    """
    every = max(1, -(-length_hint(batches) // MAX_GRADIENTS))
    heads, trained = find_heads(observed.inner), trained_heads(observed.inner)
    found: dict[str, list[list[np.ndarray]]] = {}  # labels, predictions, predictions of branches
    examples = size = 0
    for number, (x, y, _) in enumerate(batches):
        known = task_labels(y, trained)
        predictions = observed.run_batch(x)
        for task in (task for task in heads if task in predictions):  # JAX sorts the predictions
            labels = labels_by_position(heads[task], known.get(task), predictions[task][0])
            found.setdefault(task, []).append([labels, *predictions[task]])
        rows = len(keras.tree.flatten(x)[0])
        size, examples = size or rows, examples + rows
        if gradients and rows == size and number % every == 0 and number < every * MAX_GRADIENTS:
            gradients.add(x, known)
    figures = {}
    for task, batches_read in found.items():
        labels, *predicted = (join_rows([*arrays]) for arrays in zip(*batches_read))
        figures[task] = [task_figures(heads[task], values, labels) for values in predicted]
    return examples, figures


def _branch_uses(
    logs: Epochs, heads: Mapping[str, Head], figures: Mapping[str, list[TaskFigures]]
) -> dict[str, dict[str, BranchUse]]:
    """Return the branches of the hedged tasks, from the figures of each task and its branches."""
    branches: dict[str, dict[str, BranchUse]] = {}
    for task, (_, *by_branch) in figures.items():
        for (name, weight), found in zip(heads[task].branch_weights().items(), by_branch):
            epochs = logs.get(f"hedge/{task}/{name}_epoch", [math.nan])
            branches.setdefault(task, {})[name] = BranchUse(weight, found, epochs[-1] + 1)
    return branches


def _warnings(report: TaskReport, logs: Epochs, heads: Mapping[str, Head]) -> Iterator[str]:
    """Yield the warnings about the tables of a report."""
    for task, figures in report.tasks.items():
        head, weight = heads[task], report.training[task].loss_weight
        yield from figure_warnings(f"{task}: ", figures, head, weight)
        if validation := report.validation.get(task):
            where = f"{task}: in the validation data, "
            yield from figure_warnings(where, validation, head, weight)
            yield from gap_warnings(f"{task}: ", figures, validation)
            # Unless FitHedge has kept epochs.
            if all(math.isnan(each.epoch) for each in report.branches.get(task, {}).values()):
                prefix = f"{task}_" if len(heads) > 1 else ""
                yield from epoch_warnings(head, prefix, logs, validation)
    yield from _share_warnings(report, heads)
    yield from _conflict_warnings(report)


def _late_warnings(report: TaskReport, history: Any) -> Iterator[str]:
    """Yield a warning if most branches were best at the end of all epochs of `fit`."""
    epochs = [b.epoch for of_task in report.branches.values() for b in of_task.values()]
    last = history.epoch[-1] + 1 if any(epoch >= 0 for epoch in epochs) else 0
    late = sum(epoch >= (1 - LAST_SHARE) * last for epoch in epochs)
    if last and last == (history.params or {}).get("epochs") and late > len(epochs) / 2:
        yield (
            f"{late} of {len(epochs)} branches were best in the last fifth of the {last} "
            "epochs. Train longer, such as with epochs=100 and FitHedge(patience=5)."
        )


def _share_warnings(report: TaskReport, heads: Mapping[str, Head]) -> Iterator[str]:
    """Yield warnings about losses that are too large or too small for shared parts."""
    tasks, training = report.tasks, report.training
    shares = {name: task.gradient_share for name, task in training.items() if task.loss_weight}
    may_learn = {task for task in shares if tasks[task].may_learn}
    is_one_large = any(share > DOMINANT_SHARE for share in shares.values())
    low, high = USUAL_DEVIATION
    in_units = [
        task
        for task, share in shares.items()
        if not getattr(heads[task], "standardize", True)
        and not low <= tasks[task].label_deviation <= (2 if share > DOMINANT_SHARE else high)
    ]
    for task, share in shares.items():
        start = f"{task}: its loss has {share:.1%} of the gradient on shared parts, which hardly"
        is_hedged = heads[task].branches is not None  # and its loss weight has no effect
        is_large = share > DOMINANT_SHARE and tasks[task].label_deviation > 0 and may_learn - {task}
        is_small = share < SMALL_SHARE / len(shares) and task in may_learn and not is_one_large
        if is_large and in_units:
            cause = task if task in in_units else in_units[0]
            head = f"{type(heads[cause]).__name__}({cause!r}, standardize=True)"
            yield f"{start} learn from other tasks. Use {head} and heads.adapt(y)."
        elif is_large and not is_hedged:
            remedy = "Try a lower loss_weight." if training[task].loss_weight > 1 else A_HEDGE
            yield f"{start} learn from other tasks. {remedy}"
        elif is_small and not is_hedged:
            yield f"{start} learn from it. Try a higher loss_weight."


def _conflict_warnings(report: TaskReport) -> Iterator[str]:
    """Yield the pairs of tasks whose gradients conflict after training has settled."""
    if report.trend.cosine >= SETTLED_TREND:
        return
    for (first, second), conflict in report.conflicts.items():
        is_hedged = report.branches.keys() >= {first, second}
        labels = min(report.tasks[first].labels, report.tasks[second].labels)
        is_known = labels >= CONFLICT_LABELS and conflict.pairs >= CONFLICT_PAIRS
        is_large = conflict.cosine < min(CONFLICT_COSINE, -CONFLICT_SIGNIFICANT * conflict.error)
        if is_known and is_large and not is_hedged:
            yield (
                f"{first} and {second}: their gradients on shared parts conflict, with a cosine of "
                f"{conflict.cosine:.2f} ± {conflict.error:.2f} over {conflict.pairs} pairs of "
                f"batches. {A_HEDGE}"
            )


def _figure_rows(report: TaskReport) -> tuple[Iterable[Row], Iterable[Row]]:
    """Return a table of labels and predictions, and one of losses and metrics."""
    figures = [["task", "data", "labels", "share", "label", "prediction (mean ± deviation)"]]
    errors = [["task", "data", "loss", "relative error", "calibration", "metric"]]
    for task, train_use in report.tasks.items():
        validation = [("", "validation", report.validation[task])] if report.validation else []
        name = "training" if validation else "x"
        for *start, data in [(task, name, train_use), *validation]:
            label = cells(data, label_mean=".3g", label_deviation=".3g")
            prediction = cells(data, prediction_mean=".3g", prediction_deviation=".3g")
            counts = cells(data, labels=",", label_share=".0%")
            figures.append([*start, *counts, " ± ".join(label), " ± ".join(prediction)])
            numbers = cells(data, loss=".4g", relative_error=".3f", calibration=".2f")
            errors.append([*start, *numbers, metric_text(data)])
    return figures, errors


def _training_rows(report: TaskReport) -> Iterator[Row]:
    yield "task", "loss weight", "share of gradient on shared parts"
    for name, task in report.training.items():
        yield name, *cells(task, loss_weight=".3g", gradient_share=".1%")


def _conflict_rows(report: TaskReport) -> Iterator[Row]:
    yield "gradients of", "cosine ± standard error, between batches"
    # NaN is last.
    pairs = sorted(report.conflicts.items(), key=lambda pair: np.nan_to_num(pair[1].cosine, nan=2))
    rows = [("all tasks together", report.trend)]
    rows += [(" and ".join(tasks), conflict) for tasks, conflict in pairs]
    for name, conflict in rows:
        yield name, " ± ".join(cells(conflict, cosine="+.2f", error=".2f"))


def _branch_rows(report: TaskReport) -> Iterator[Row]:
    yield "task", "branch", "weight", "epoch", "relative error", "metric"
    for task, branches in report.branches.items():
        mixture = BranchUse(math.nan, (report.validation or report.tasks)[task])
        for index, (branch, each) in enumerate([*branches.items(), ("mixed", mixture)]):
            row = ["" if index else task, branch, *cells(each, weight=".2f", epoch=".0f")]
            yield *row, *cells(each.figures, relative_error=".3f"), metric_text(each.figures)
