"""A report on the tasks of a model, with warnings."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import keras
import numpy as np

from ple_keras._checks import short_repr
from ple_keras._keras.batches import DEFAULT_SIZE, Batches, is_dataset
from ple_keras._keras.internals import mask_of, set_mask
from ple_keras._keras.tensors import at_least_float32
from ple_keras._keras.walking import Untracked, find_layers
from ple_keras._typing import Nested, Tensor
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads, find_heads
from ple_keras.inspection._errors import empty_data_error
from ple_keras.inspection._observed_model import OuterModel, holding_branches
from ple_keras.inspection._report_text import (
    MAX_ITEMS,
    Row,
    join_items,
    percent,
    table_lines,
    to_json,
    warning_block,
)
from ple_keras.inspection.branches import hedged_heads
from ple_keras.inspection.gradient_conflict import TaskLosses, select_labels, task_losses
from ple_keras.inspection.levels import check_model, find_levels
from ple_keras.inspection.task_figures import (
    TaskFigures,
    labels_of_head,
    predictions_of,
    task_figures,
)
from ple_keras.inspection.task_gradients import (
    Conflict,
    SharedGradients,
    no_gradients,
)
from ple_keras.inspection.task_warnings import (
    ModelOptions,
    conflict_warnings,
    is_settled,
    model_options,
    task_warnings,
)
from ple_keras.labels.label_arrays import join_rows
from ple_keras.layers.observation import Observer

MAX_GRADIENTS = 64  # batches
MIN_BATCHES = 32  # of arrays, by default, so that cosines are averaged over 16 pairs
MIN_SIZE = 32  # of these batches


@dataclass(frozen=True)
class TaskTraining:
    """Part of a task in the training of a model.

    Attributes:
        loss_weight: The current weight of the task's loss; 0 if it is not trained.
        loss_share: The task's share of the sum of the weighted losses.
        gradient_share: The task's share of the gradients on shared parts: the norm of the gradient
            of its weighted loss over one batch, as the root of the mean square over the batches,
            divided by the sum over the tasks. Shared parts are experts, layers and tables before
            the heads from which at least two tasks learn. NaN without such parts.
    """

    loss_weight: float
    loss_share: float
    gradient_share: float


@dataclass(frozen=True)
class BranchUse:
    """A branch of a hedged task.

    Attributes:
        weight: Its weight in the mixture.
        figures: The figures of its predictions, on validation data if given, else on `x`.
    """

    weight: float
    figures: TaskFigures


@dataclass(frozen=True)
class TaskReport:
    """Result of `task_report`; prints as tables, and is a table in notebooks.

    Attributes:
        examples: The number of examples.
        tasks: `{task: TaskFigures}`: figures on labels and predictions.
        training: `{task: TaskTraining}`, with `loss_weight`, `loss_share` and `gradient_share`.
        conflicts: `{(task, task): Conflict}`, with `cosine`, `error` and `pairs`: the mean cosine
            between the gradients of two tasks on shared parts, in pairs of batches.
        trend: A `Conflict` of the sums over the tasks: a cosine near 0 if training has settled.
        validation_examples: The number of examples of the validation data; 0 without.
        validation: As `tasks`, for the validation data; empty without.
        options: Options of the model that the advice takes into account.
        branches: `{task: {branch: BranchUse}}` of the tasks of a HedgedBlock, with `weight` and
            `figures`. A mixture that is better than both branches shows that they differ, and a
            shared branch that is better than the own one, that other tasks help.

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
    validation_examples: int
    validation: dict[str, TaskFigures]
    options: ModelOptions
    branches: dict[str, dict[str, BranchUse]]

    @property
    def warnings(self) -> list[str]:
        """Warnings about labels, predictions and gradients, each with remedies."""
        shares = {task: use.gradient_share for task, use in self.training.items()}
        return [
            *task_warnings(self.tasks, self.validation, shares, self.options),
            *conflict_warnings(self.tasks, self.conflicts, self.trend, self.options),
            *_mixture_warnings(self.branches),
        ]

    @property
    def gaps(self) -> dict[str, float]:
        """The relative error on validation data minus that on `x`, by task."""
        return {
            task: figures.relative_error - self.tasks[task].relative_error
            for task, figures in self.validation.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, strings and numbers, ready for JSON."""
        found = {**asdict(self), "gaps": self.gaps}
        return {**to_json(found), "warnings": self.warnings}

    def __str__(self) -> str:
        tables = ["\n".join(table_lines(rows)) for rows in _tables(self)]
        warned = [warning_block(self.warnings)] if self.warnings else []
        return "\n\n".join([_title(self), *tables, *warned])

    def _repr_html_(self) -> str:
        """Return the tables and warnings as HTML, for notebooks."""
        tables = "".join(map(_html_table, map(list, _tables(self))))
        items = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        warned = f"<p><b>Warnings</b></p><ul>{items}</ul>" if items else ""
        return f"<div><p><b>{escape(_title(self))}</b></p>{tables}{warned}</div>"


def task_report(
    model: keras.Layer,
    x: Nested,
    y: Nested = None,
    validation: Nested = None,
    batch_size: int | None = None,
) -> TaskReport:
    """Report labels, predictions, losses and gradients of a model's tasks, with warnings.

    Give training data as `x` and `y`, since gradients are those of training, and other data as
    `validation`. The model runs as in `predict`: without dropout, and without changes to weights
    and statistics. In sequences, each unmasked position counts as an example. Sample weights and
    regularization are left out. If several processes train one model, the report covers the
    examples given in this process.

    Gradients are computed on at most 64 batches: of arrays, evenly spaced ones; of other data, the
    first ones. Variables with over ten million numbers, such as large tables, are left out of them.

    Args:
        model: A built model with TaskHeads, or heads for its tasks, that returns predictions by
            task.
        x: Arrays, or a dict or list of arrays, as for `fit`; or, with `y=None`, batches of
            `(x, y)`: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        y: `{task: labels}` for each task that has a loss. Labels of other tasks may be missing.
        validation: `(x, y)` of arrays, or batches; for the same figures on other data.
        batch_size: The number of examples per gradient, for arrays only. By default a 32nd of the
            examples, at least 32 and at most 1024.

    Returns:
        A TaskReport: print it, or use `tasks`, `training`, `conflicts`, `validation`, `warnings`
        and `to_dict()`.

    Raises:
        TypeError: If `model` is not a Keras layer, `x` or `validation` is neither arrays nor
            batches, or `y` is not a dict of numbers.
        ValueError: If `model` is not built, has no heads, or does not return predictions by task.
            If `y` lacks a task that has a loss, or has a label that its head does not allow. If
            `x` is empty, or called in the scope of a `tf.distribute` strategy with several
            replicas.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, heads(SharedBottomBlock(heads, [4])(inputs)))
    >>> click = np.array([0, 1, 1, 1])
    >>> report = task_report(model, np.eye(4)[:, :3], {"click": click, "buy": click})
    >>> report.tasks["click"].label_mean, report.tasks["buy"].labels
    (0.75, 4)
    >>> sorted(report.training["buy"].__dict__)
    ['gradient_share', 'loss_share', 'loss_weight']
    """
    check_model(model)
    heads = find_heads(model)
    if not heads:
        raise ValueError(
            f"model must have TaskHeads, or heads for its tasks. Received: model={model!r}"
        )
    losses = task_losses(model, find_levels(model))
    weights = _loss_weights(model, losses)
    gradients = SharedGradients(model, losses) if len(losses) > 1 else None
    size = _gradient_size(x) if batch_size is None else batch_size
    observed = _Predictions(model, list(heads))
    examples, tasks = _figures_of(observed, Batches(x, y, size), heads, losses, gradients)
    hedged = hedged_heads(model)
    # Weights do not scale the gradients of branches.
    factors = {task: float(w > 0) if task in hedged else w for task, w in weights.items()}
    of_gradients = gradients.figures(factors) if gradients else no_gradients(losses)
    validation_examples = 0
    of_validation: dict[str, TaskFigures] = {}
    if validation is not None:
        batches = _validation_batches(validation)
        validation_examples, of_validation = _figures_of(observed, batches, heads, losses)
    figures = of_validation or tasks
    branches = {
        task: {
            branch: BranchUse(weight, figures[_branch_key(task, branch)])
            for branch, weight in head.branch_weights().items()
        }
        for task, head in hedged.items()
        if task in tasks
    }
    tasks, of_validation = ({t: x[t] for t in x if t in heads} for x in (tasks, of_validation))
    return TaskReport(
        examples,
        tasks,
        _training(tasks, weights, of_gradients.shares),
        of_gradients.conflicts,
        of_gradients.trend,
        validation_examples,
        of_validation,
        model_options(model, weights),
        branches,
    )


class _Predictions(OuterModel):
    """Model that returns the predictions of another model, without its masked positions."""

    def __init__(self, model: keras.Layer, tasks: Sequence[str]) -> None:
        super().__init__(model)
        self._tasks = Untracked(tasks)
        self._names = Untracked({id(block): key for key, block in find_levels(model).items()})

    def call(self, inputs: Nested, training: bool | None = None) -> dict[str, Tensor]:
        # The observer keeps gate statistics as they are.
        with Observer(self._names.value), holding_branches(self.inner) as take_branches:
            outputs = self.inner(inputs, training=training)
            held = take_branches()
        predictions = predictions_of(outputs, self._tasks.value)
        for task, head in hedged_heads(self.inner).items():
            branches = head.branch_predictions(held[task].values) if task in predictions else ()
            for branch, of_branch in zip(head.branch_names, branches):
                set_mask(of_branch, mask_of(outputs[task]))
                predictions[_branch_key(task, branch)] = predictions_of({task: of_branch}, [task])[
                    task
                ]
        return {task: at_least_float32(of_task) for task, of_task in predictions.items()}


def _branch_key(task: str, branch: str) -> str:
    """Return the key of a branch among those of tasks, whose names contain no "/"."""
    return f"{task}/{branch}"


def _figures_of(
    observed: _Predictions,
    batches: Batches,
    heads: Mapping[str, Head],
    losses: TaskLosses,
    gradients: SharedGradients | None = None,
) -> tuple[int, dict[str, TaskFigures]]:
    """Return the number of examples and the figures of each task; add batches to gradients."""
    parts: list[dict[str, np.ndarray]] = []
    labels: dict[str, list[np.ndarray | None]] = {task: [] for task in heads}
    examples = 0
    is_used = _batches_for_gradients(batches)
    for number, (x, y) in enumerate(batches):
        if len(heads) == 1 and hasattr(y, "shape"):
            y = dict.fromkeys(heads, y)  # as `fit` takes it
        y_of_losses = select_labels(y, losses)
        predictions = observed.run_batch(x)
        missing = [task for task in losses if task not in predictions]
        if missing:
            raise ValueError(
                f"model must return predictions by task, with the keys {list(losses)}; missing: "
                f"{missing}. Received: model={observed.inner!r}"
            )
        for task, of_task in predictions.items():
            if task not in heads:
                continue
            given = y.get(task)
            of_head = None if given is None else labels_of_head(heads[task], given, of_task)
            labels[task].append(of_head)
        rows = len(keras.tree.flatten(x)[0])
        if gradients and is_used(number, rows):
            gradients.add(x, y_of_losses, {task: len(predictions[task]) for task in losses})
        parts.append(predictions)
        examples += rows
    if not parts:
        raise empty_data_error(batches.given)
    by_task = {task: [task] for task in heads if task in parts[0]}  # which JAX sorts
    for key in sorted(set(parts[0]) - set(heads)):  # of branches
        by_task[key.partition("/")[0]].append(key)
    return examples, {
        key: task_figures(
            heads[task],
            losses.get(task),
            join_rows([p[key] for p in parts]),
            _join(labels[task]),
        )
        for task, keys in by_task.items()
        for key in keys
    }


def _join(labels: list[np.ndarray | None]) -> np.ndarray | None:
    """Return the labels of all batches; None if those of a batch are unknown."""
    known = [array for array in labels if array is not None]
    return join_rows(known) if len(known) == len(labels) else None


def _batches_for_gradients(batches: Batches) -> Callable[[int, int], bool]:
    """Return whether a batch, by its number and its size, is one that gradients are computed on.

    They are evenly spaced if their number is known, else the first ones, all of one size.
    """
    try:
        every = -(-len(batches) // MAX_GRADIENTS)
    except TypeError:
        every = 1
    first: list[int] = []

    def is_used(number: int, rows: int) -> bool:
        first.append(rows)
        return rows == first[0] and number % every == 0 and number < every * MAX_GRADIENTS

    return is_used


def _gradient_size(x: Nested) -> int | None:
    """Return the default number of rows of a batch; None for data that consist of batches."""
    if is_dataset(x):
        return None
    rows = max((len(leaf) for leaf in keras.tree.flatten(x) if np.ndim(leaf)), default=0)
    return min(max(rows // MIN_BATCHES, MIN_SIZE), DEFAULT_SIZE)


def _validation_batches(validation: Nested) -> Batches:
    if isinstance(validation, tuple) and len(validation) in (2, 3):
        return Batches(*validation[:2])
    if not is_dataset(validation):
        raise TypeError(
            "validation must be (x, y) of arrays, or batches. "
            f"Received: validation={short_repr(validation)}"
        )
    return Batches(validation)


def _loss_weights(model: keras.Layer, losses: TaskLosses) -> dict[str, float]:
    """Return the current weight of each task's loss."""
    compiled = getattr(model, "loss", None)
    layers = find_layers(model, TaskHeads)
    if compiled is None:
        weights = {task: head.loss_weight for task, head in find_heads(model).items()}
        for heads in layers:
            weights |= heads.loss_weights()
    else:
        given = model.get_compile_config().get("loss_weights") or {}
        weights = {task: float(np.ravel(weight)[0]) for task, weight in given.items()}
    return {task: weights.get(task, 1.0) for task in losses}


def _training(
    tasks: Mapping[str, TaskFigures], weights: Mapping[str, float], shares: Mapping[str, float]
) -> dict[str, TaskTraining]:
    losses = {task: weights.get(task, 0.0) * figures.loss for task, figures in tasks.items()}
    total = float(np.nansum([*losses.values()]))
    return {
        task: TaskTraining(
            weights.get(task, 0.0),
            loss / total if total else math.nan,
            shares.get(task, math.nan),
        )
        for task, loss in losses.items()
    }


def _title(report: TaskReport) -> str:
    validation = f", and {report.validation_examples:,} of validation" if report.validation else ""
    return f"Tasks over {report.examples:,} examples{validation}"


def _tables(report: TaskReport) -> Iterator[Iterable[Row]]:
    data = {"x": report.tasks}
    if report.validation:
        data["validation"] = report.validation
    yield _label_rows(data)
    yield _quality_rows(data, report)
    yield _training_rows(report)
    if report.conflicts:
        yield _conflict_rows(report)
    if report.branches:
        yield _branch_rows(report)


def _by_task(
    data: Mapping[str, Mapping[str, TaskFigures]],
) -> Iterator[tuple[str, str, str, TaskFigures]]:
    """Yield the task, its text in the first column, the name of the data and the figures."""
    for task in data["x"]:
        for name, tasks in data.items():
            yield task, task if name == "x" else "", name, tasks[task]


def _label_rows(data: Mapping[str, Mapping[str, TaskFigures]]) -> Iterator[Row]:
    yield "task", "data", "labels", "share", "label", "prediction (mean ± deviation)"
    for _, text, name, use in _by_task(data):
        label = f"{use.label_classes} classes" if use.label_classes else _mean(use, "label")
        share = percent(use.label_share)
        yield text, name, f"{use.labels:,}", share, label, _mean(use, "prediction")


def _mean(use: TaskFigures, of: str) -> str:
    mean, deviation = getattr(use, f"{of}_mean"), getattr(use, f"{of}_deviation")
    return "-" if math.isnan(mean) else f"{mean:.3g} ± {deviation:.3g}"


def _quality_rows(
    data: Mapping[str, Mapping[str, TaskFigures]], report: TaskReport
) -> Iterator[Row]:
    yield "task", "data", "loss", "relative error", "gap", "calibration", "metric"
    for task, text, name, use in _by_task(data):
        gap = "-" if name == "x" else _number(report.gaps[task], "+.3f")
        error, calibration = _number(use.relative_error, ".3f"), _number(use.calibration, ".2f")
        yield text, name, _number(use.loss, ".4g"), error, gap, calibration, _metric(use)


def _metric(use: TaskFigures) -> str:
    metrics = {"AUC": (use.auc, ".4f"), "RMSE": (use.rmse, ".4g")}
    metrics["accuracy"] = (use.accuracy, ".4f")
    return join_items(
        f"{key} {v:{form}}" for key, (v, form) in metrics.items() if not math.isnan(v)
    )


def _branch_rows(report: TaskReport) -> Iterator[Row]:
    yield "task", "branch", "weight", "relative error", "metric"
    for task, branches in report.branches.items():
        mixed = (report.validation or report.tasks)[task]
        text = task
        for branch, use in branches.items():
            error = _number(use.figures.relative_error, ".3f")
            yield text, branch, f"{use.weight:.2f}", error, _metric(use.figures)
            text = ""
        yield "", "mixed", "", _number(mixed.relative_error, ".3f"), _metric(mixed)


def _mixture_warnings(branches: Mapping[str, Mapping[str, BranchUse]]) -> Iterator[str]:
    for task, of_task in branches.items():
        if len({use.weight for use in of_task.values()}) == 1:
            yield (
                f"{task}: the mixture of its branches has equal weights, so it was never fitted, "
                "or without labels. Train with FitHedge, or call fit_hedge."
            )


def _training_rows(report: TaskReport) -> Iterator[Row]:
    yield "task", "loss weight", "share of loss", "share of gradient on shared parts"
    for task, use in report.training.items():
        shares = (_number(100 * share, ".1f", " %") for share in _shares(use))
        yield task, f"{use.loss_weight:.3g}", *shares


def _shares(use: TaskTraining) -> tuple[float, float]:
    return use.loss_share, use.gradient_share


def _conflict_rows(report: TaskReport) -> Iterator[Row]:
    settled = "" if is_settled(report.trend) else ", so training has not settled"
    yield "gradients of", "cosine ± standard error, between batches"
    yield "all tasks together", _cosine(report.trend) + settled
    for pair, conflict in sorted(report.conflicts.items(), key=_cosine_of)[:MAX_ITEMS]:
        yield " and ".join(pair), _cosine(conflict)
    if len(report.conflicts) > MAX_ITEMS:
        yield f"{len(report.conflicts) - MAX_ITEMS} more pairs", "larger cosines"


def _cosine_of(item: tuple[Any, Conflict]) -> float:
    cosine = item[1].cosine
    return math.inf if math.isnan(cosine) else cosine


def _cosine(conflict: Conflict) -> str:
    if math.isnan(conflict.cosine):
        return "undefined"
    return f"{conflict.cosine:+.2f} ± {_number(conflict.error, '.2f')}"


def _number(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"


def _html_table(rows: list[Row]) -> str:
    header, *body = (
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in (("th" if index == 0 else "td", row) for index, row in enumerate(rows))
    )
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in [header, *body]) + "</table>"
