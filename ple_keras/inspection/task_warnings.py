"""Warnings about the tasks of a model, with remedies."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import keras

from ple_keras.heads.hedged_head import plain_head
from ple_keras.heads.regression_head import RegressionHead
from ple_keras.heads.task_heads import find_heads
from ple_keras.inspection._report_text import percent
from ple_keras.inspection.levels import find_levels
from ple_keras.inspection.task_figures import TaskFigures, is_binary
from ple_keras.inspection.task_gradients import Conflict
from ple_keras.labels.label_arrays import USUAL_DEVIATION, depends_on_unit
from ple_keras.labels.task_names import SHARED

MIN_LABELS = 100  # for a warning about their figures
# Of the gradient on shared parts. Next to a loss of the same size, a loss weight of 10, a share of
# 0.9, cost income .01 AUC in a shared bottom, and a weight of 1 nothing (docs/results).
LARGE_SHARE = 0.9
SMALL_SHARE = 0.1  # of an equal share
FEW_LABELS = 0.5  # of the examples, below which label_root lowers a loss by .7 or more
LEARNED_ERROR = 0.3  # relative error below which a small gradient is no problem
# Of labels of one class, by which a rate of 1 % has another class but for a chance below .0001. Or
# expected labels of the other class, of which the chance to see none is below .01.
ONE_CLASS_LABELS = 1000
EXPECTED_LABELS = 5
CONSTANT_DEVIATION = 1e-6  # of predictions, times that of the labels: float32 has 7 digits
CALIBRATION = (0.67, 1.5)  # the last steps of Adam alone gave 1.4 to a task with 4 % of positives
# A difference that chance exceeds in fewer than 3 of 1000 tasks, in standard errors
SIGNIFICANT = 3
LARGE_GAP = 0.2  # of relative errors; healthy models had up to .18
# Of conflicts. Trends were .9 before training, .3 to .8 while the loss fell, and below .25 when
# tasks no longer gained from more epochs. Healthy models had cosines above -.14
# then, and tasks that one unit can not serve, of -.3 to -.5 (tests/inspection/task_models.py).
SETTLED_TREND = 0.25
CONFLICT_COSINE = -0.2
CONFLICT_PAIRS = 12
CONFLICT_LABELS = 1000
CONFLICT_SIGNIFICANT = 4  # in standard errors of a mean over few pairs


@dataclass(frozen=True)
class TaskOptions:
    """Options of a head that the advice of a report takes into account.

    Attributes:
        is_binary: Whether it predicts the probability of a positive label.
        has_unit: Whether its loss grows with the scale of the labels, as a squared error does that
            is not standardized.
        loss_weight: The current weight of its loss; 0 if it is not trained.
        pos_weight: The `pos_weight` of a BinaryHead, or None.
    """

    is_binary: bool
    has_unit: bool
    loss_weight: float
    pos_weight: float | None


@dataclass(frozen=True)
class ModelOptions:
    """Options of a model that the advice of a report takes into account.

    Attributes:
        tasks: The options of each head.
        has_experts: Whether the model has a level with gates.
        can_isolate: Whether `isolate_task_experts=True` would change a level.
    """

    tasks: dict[str, TaskOptions]
    has_experts: bool
    can_isolate: bool


def model_options(model: keras.Layer, weights: Mapping[str, float]) -> ModelOptions:
    """Return the options of a built model.

    Args:
        model: The model.
        weights: The current weight of each task's loss.
    """
    levels = [level for level in find_levels(model).values() if level.built]
    return ModelOptions(
        {
            task: TaskOptions(
                is_binary(head),
                isinstance(head, RegressionHead)
                and depends_on_unit(head.loss)
                and not head.standardize,
                weights.get(task, 0.0),
                getattr(head, "pos_weight", None),
            )
            for task, head in ((t, plain_head(h)) for t, h in find_heads(model).items())
        },
        bool(levels),
        any(SHARED in x.gate_experts and not x._wiring.is_isolated for x in levels),
    )


def task_warnings(
    tasks: Mapping[str, TaskFigures],
    validation: Mapping[str, TaskFigures],
    shares: Mapping[str, float],
    options: ModelOptions,
) -> Iterator[str]:
    """Yield the warnings about labels, gradients, predictions and validation, in this order.

    Args:
        tasks: The figures of each task.
        validation: Those of the validation data; empty without.
        shares: The share of each task in the gradients on shared parts.
        options: Options of the model.
    """
    data = [(tasks, ""), (validation, "in the validation data, ")]
    for of_data, where in data:
        for task, use in of_data.items():
            yield from _label_warnings(f"{task}: {where}", use, options.tasks[task])
    yield from _share_warnings(tasks, shares, options)
    for of_data, where in data:
        for task, use in of_data.items():
            yield from _prediction_warnings(f"{task}: {where}", use, options.tasks[task])
    for task, use in validation.items():
        yield from _gap_warnings(task, tasks[task], use)


def _label_warnings(start: str, use: TaskFigures, options: TaskOptions) -> Iterator[str]:
    if not use.labels and options.loss_weight:
        yield f"{start}no example has a label. Check the labels, and the head's missing_label."
    elif _has_one_label(use, options):
        are = f"are {use.label_mean:.4g}" if math.isfinite(use.label_mean) else "are of one class"
        yield (
            f"{start}all {use.labels:,} labels {are}, so that there is nothing to learn. Check the "
            "labels, and that missing labels are NaN."
        )


def _has_one_label(use: TaskFigures, options: TaskOptions) -> bool:
    """Return whether labels are equal, and not by chance."""
    if use.labels < MIN_LABELS:
        return False
    if not options.is_binary:
        return use.label_classes == 1 or use.label_deviation == 0
    if use.label_mean not in (0, 1):
        return False
    of_other_class = abs(use.expected_positives - use.label_mean * use.labels)
    return use.labels >= ONE_CLASS_LABELS or of_other_class >= EXPECTED_LABELS


def _share_warnings(
    tasks: Mapping[str, TaskFigures], shares: Mapping[str, float], options: ModelOptions
) -> Iterator[str]:
    """Yield warnings about losses that are too large or too small for shared parts."""
    trained = {task: share for task, share in shares.items() if options.tasks[task].loss_weight}
    units = {task: _unit_remedy(tasks[task], options.tasks[task]) for task in trained}
    may_learn = {task for task in trained if _may_learn(tasks[task])}
    is_one_large = any(share > LARGE_SHARE for share in trained.values())
    for task, share in trained.items():
        if _has_one_label(tasks[task], options.tasks[task]):
            continue
        starved = {other for other in may_learn if other != task and not units[other]}
        is_small = share < SMALL_SHARE / len(trained) and task in may_learn
        weight = _equal_weight(share, options.tasks[task], len(trained))
        start = f"{task}: its loss has {_share(share)} of the gradient on shared parts. They hardly"
        if share > LARGE_SHARE and starved:
            yield f"{start} learn from other tasks. {units[task] or _lower(weight, tasks[task])}"
        elif is_small and (units[task] or not is_one_large):
            yield f"{start} learn from it. {units[task] or _higher(weight)}"
        elif units[task]:
            yield (
                f"{task}: its labels have a standard deviation of "
                f"{tasks[task].label_deviation:.3g}, and its loss depends on their unit. "
                f"{units[task]}"
            )


def _may_learn(use: TaskFigures) -> bool:
    """Return whether a task has something to learn."""
    is_learned = use.relative_error <= LEARNED_ERROR
    return use.labels >= MIN_LABELS and not is_learned and not _is_constant(use)


def _is_constant(use: TaskFigures) -> bool:
    """Return whether predictions are constant: the task then sends no gradient to shared parts."""
    unit = use.label_deviation if use.label_deviation > 0 else 1.0
    return use.prediction_deviation < CONSTANT_DEVIATION * unit


def _unit_remedy(use: TaskFigures, options: TaskOptions) -> str:
    """Return the remedy for a regression whose labels are far from a deviation of 1; else ""."""
    low, high = USUAL_DEVIATION
    is_usual = low <= use.label_deviation <= high or use.label_deviation == 0
    if is_usual or not options.has_unit or use.labels < MIN_LABELS:
        return ""
    return "Create it with RegressionHead(..., standardize=True), and call heads.adapt(y)."


def _lower(weight: float, use: TaskFigures) -> str:
    remedy = f"Try loss_weight={weight:.1g}"
    if use.label_share < FEW_LABELS:
        scarce = percent(use.label_share)
        remedy += f', or reduction="label_root", since only {scarce} of the examples have a label'
    return f"{remedy}, or isolate_task_experts=True with StreamFeatures."


def _higher(weight: float) -> str:
    given = f"loss_weight={weight:.1g}" if math.isfinite(weight) else "a higher loss_weight"
    return f"Try {given}, and check its labels."


def _equal_weight(share: float, options: TaskOptions, count: int) -> float:
    """Return the loss weight with which a task has the mean share of the others."""
    if not share or count < 2:
        return math.inf
    return options.loss_weight * (1 - share) / (share * (count - 1))


def _prediction_warnings(start: str, use: TaskFigures, options: TaskOptions) -> Iterator[str]:
    if _is_constant(use):
        yield (
            f"{start}the predictions are constant, with a standard deviation of "
            f"{use.prediction_deviation:.0e}. Check the scale of the numbers in x, the labels and "
            "the dead units, or try a lower learning rate."
        )
        return
    if _has_one_label(use, options):
        return
    low, high = CALIBRATION
    is_off = use.calibration < low or use.calibration > high
    positives = use.label_mean * use.labels
    error = math.sqrt(max(use.expected_positives, positives, 1.0)) if is_off else math.inf
    if abs(use.expected_positives - positives) > SIGNIFICANT * error and use.labels >= MIN_LABELS:
        if options.pos_weight not in (None, 1):
            remedy = f"Divide the predicted odds by its pos_weight, {options.pos_weight:g}."
        else:
            remedy = "Check that missing labels are NaN, and that x is like the training data."
        yield (
            f"{start}the sum of the predictions is {use.calibration:.2f} times that of "
            f"{use.labels:,} labels. {remedy}"
        )


def _gap_warnings(task: str, use: TaskFigures, validation: TaskFigures) -> Iterator[str]:
    gap = validation.relative_error - use.relative_error
    error = math.hypot(use.relative_error_deviation, validation.relative_error_deviation)
    is_known = min(use.labels, validation.labels) >= MIN_LABELS
    if is_known and gap > LARGE_GAP and gap > SIGNIFICANT * error:
        yield (
            f"{task}: the relative error is {validation.relative_error:.2f} in the validation "
            f"data, and {use.relative_error:.2f} in x. Try fewer epochs with EarlyStopping, "
            "dropout or smaller experts, and check that both data are alike."
        )


def is_settled(trend: Conflict) -> bool:
    """Return whether the weights no longer move in one direction."""
    return not trend.cosine >= SETTLED_TREND


def conflict_warnings(
    tasks: Mapping[str, TaskFigures],
    conflicts: Mapping[tuple[str, str], Conflict],
    trend: Conflict,
    options: ModelOptions,
) -> Iterator[str]:
    """Yield the warnings about pairs of tasks whose gradients conflict in many batches.

    Args:
        tasks: The figures of each task.
        conflicts: The conflict of each pair.
        trend: The cosine of the sums over tasks.
        options: Options of the model.
    """
    for (first, second), conflict in conflicts.items():
        has_labels = min(tasks[first].labels, tasks[second].labels) >= CONFLICT_LABELS
        is_large = conflict.cosine < min(CONFLICT_COSINE, -CONFLICT_SIGNIFICANT * conflict.error)
        if has_labels and is_large and conflict.pairs >= CONFLICT_PAIRS and is_settled(trend):
            yield (
                f"{first} and {second}: their gradients on shared parts conflict, with a cosine of "
                f"{conflict.cosine:.2f} ± {conflict.error:.2f} over {conflict.pairs} pairs of "
                f"batches. If one of them is worse than alone, try {_conflict_remedy(options)}."
            )


def _conflict_remedy(options: ModelOptions) -> str:
    if not options.has_experts:
        return "a PLEBlock, or a wider network"
    if options.can_isolate:
        return "more task experts or isolate_task_experts=True"
    return "more task experts, or StreamFeatures"


def _share(share: float) -> str:
    """Return a share as text, exact near 0 and 1."""
    if 0.001 <= share <= 0.999:
        return f"{100 * share:.1f} %"
    return "over 99.9 %" if share > 0.5 else "under 0.1 %"
