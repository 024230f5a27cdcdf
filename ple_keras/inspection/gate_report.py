"""A report on the use of a model's gates and experts, with warnings."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import SHARED
from ple_keras._keras.batches import Batches
from ple_keras._keras.internals import mask_of
from ple_keras._keras.walking import find_layers
from ple_keras._typing import ByName, Nested, Streams, Tensor
from ple_keras.heads.head import Head
from ple_keras.inspection._observed_model import observe_model
from ple_keras.inspection._report_text import format_report
from ple_keras.inspection._report_warnings import (
    COLLAPSED_WEIGHT,
    input_warnings,
    prediction_warnings,
    report_warnings,
)
from ple_keras.inspection.gradient_conflict import conflict_of_batches
from ple_keras.inspection.level_use import ExpertUse, GateUse, LevelUse
from ple_keras.inspection.levels import built_levels
from ple_keras.inspection.prediction_use import (
    PredictionUse,
    labels_by_task,
    prediction_use,
    predictions_of,
)
from ple_keras.layers.cgc_block import CGCBlock

DEAD_UNIT_SHARE = 0.99  # of the examples for which a dead unit is 0


@dataclass(frozen=True)
class GateReport:
    """Result of `gate_report`; prints as tables.

    Attributes:
        examples: The number of examples.
        levels: `{level: LevelUse}`. A LevelUse has `gates`, `experts`, `conflict` and
            `input_scale`.
        predictions: `{task: PredictionUse}` for the tasks of the model's heads. A PredictionUse
            has `deviation`, `labels`, `calibration` and `expected_positives`.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> isinstance(report, GateReport), report.examples, list(report.levels)
    (True, 3, ['ple/0'])
    """

    examples: int
    levels: dict[str, LevelUse]
    predictions: dict[str, PredictionUse] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Warnings about inputs, predictions, gates and experts, each with remedies."""
        of_tasks = (prediction_warnings(task, use) for task, use in self.predictions.items())
        of_levels = (report_warnings(level, use) for level, use in self.levels.items())
        return list(chain(input_warnings(self.levels), *of_tasks, *of_levels))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, strings and numbers, ready for JSON."""
        return {
            "examples": self.examples,
            "levels": {level: _to_json(asdict(use)) for level, use in self.levels.items()},
            "predictions": {task: _to_json(asdict(use)) for task, use in self.predictions.items()},
            "warnings": self.warnings,
        }

    def __str__(self) -> str:
        return format_report(self)


def gate_report(
    model: keras.Layer,
    x: Nested,
    y: Nested = None,
    batch_size: int | None = None,
    verbose: str | int = "auto",
) -> GateReport:
    """Report the use of a model's gates and experts on given examples.

    In sequences, each unmasked position counts as an example. If several processes train one
    model, the report covers the examples given in this process.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        y: Labels by task, for arrays only. With `y`, the report includes `gradient_conflict`,
            averaged over the batches, and the calibration of BinaryHeads and ProductHeads. For
            batches `(x, y)` with labels by task in every batch, it includes the calibration only,
            since batches are read once: call `gradient_conflict(model, x)` for the conflicts.
        batch_size: The number of examples per batch, 1024 by default; for arrays only.
        verbose: As for `gate_weights`.

    Returns:
        A GateReport: print it, or use `levels`, `predictions`, `warnings` and `to_dict()`.

    Raises:
        TypeError, ValueError: As `gate_weights`, and with `y` as `gradient_conflict`. Also if
            labels are not numbers or, of a BinaryHead or ProductHead, not one for each prediction.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], gate_softmax_temperature=1e9, name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> round(report.levels["ple/0"].gates["click"].mean["shared/expert_0"], 4)
    0.5
    >>> report.levels["ple/0"].experts["shared/expert_0"].share["buy"]
    0.5
    """
    batches = Batches(x, y, batch_size)
    levels = built_levels(model)
    heads = {head.task: head for head in find_layers(model, Head)}
    summarize_outputs = partial(predictions_of, tasks=list(heads))
    figures, predictions, labels_of_batches = observe_model(
        model, batches, _level_figures, summarize_outputs, verbose
    )
    conflict = {} if y is None else conflict_of_batches(model, batches)
    uses = {}
    for level, of_level in figures.items():
        gates = {
            gate: _gate_use(of_level["weights"][gate].astype("float64"), experts)
            for gate, experts in levels[level].gate_experts.items()
        }
        experts = _expert_uses(levels[level], gates, of_level["zeros"])
        isolated = levels[level]._wiring.is_isolated
        scale = _input_scale(of_level["input_squares"])
        uses[level] = LevelUse(gates, experts, conflict.get(level, {}), isolated, scale)
    examples = int(next(iter(figures.values()))["examples"].sum())
    labels = labels_by_task(labels_of_batches, heads)
    of_tasks = {
        task: prediction_use(head, predictions[task], labels.get(task))
        for task, head in heads.items()
        if task in predictions  # which JAX sorts
    }
    return GateReport(examples, uses, of_tasks)


def _level_figures(inputs: Streams, weights: ByName, outputs: ByName) -> dict[str, Any]:
    """Return the figures of a batch; their first axis is positions or batches, to concatenate."""
    first = next(iter(outputs.values()))
    return {
        "weights": {gate: _flatten_positions(of_gate) for gate, of_gate in weights.items()},
        "zeros": {expert: _count_zeros(output) for expert, output in outputs.items()},
        "examples": ops.ones_like(ops.reshape(first, (ops.shape(first)[0], -1))[:, 0]),
        "input_squares": keras.tree.map_structure(_sum_squares, inputs),
    }


def _sum_squares(inputs: Tensor) -> Tensor:
    """Sum the squares of each number over the positions, and count these: `(1, 2 D)`."""
    mask, inputs = mask_of(inputs), ops.cast(inputs, "float32")
    is_kept = ops.logical_not(ops.isnan(inputs))
    if mask is not None:
        is_kept = ops.logical_and(is_kept, ops.expand_dims(ops.cast(mask, "bool"), -1))
    squares = ops.where(is_kept, ops.square(inputs), ops.zeros_like(inputs))
    summed = ops.concatenate([squares, ops.cast(is_kept, "float32")], axis=-1)
    return ops.sum(ops.reshape(summed, (-1, summed.shape[-1])), axis=0, keepdims=True)


def _input_scale(sums: Nested) -> float:
    """Return the largest root mean square of a number, from the results of `_sum_squares`."""
    mean_squares = []
    for of_stream in keras.tree.flatten(sums):
        squares, count = np.split(of_stream.astype("float64").sum(axis=0), 2)
        mean_squares.append((squares / np.maximum(count, 1)).max())
    return float(np.sqrt(max(mean_squares)))


def _flatten_positions(weights: Tensor) -> Tensor:
    """Return weights as `(positions, experts)`, with -1 at masked positions."""
    mask = mask_of(weights)
    if mask is not None:
        weights = ops.where(ops.expand_dims(mask, -1), weights, -ops.ones_like(weights))
    return ops.reshape(weights, (-1, weights.shape[-1]))


def _count_zeros(outputs: Tensor) -> Tensor:
    """Count the zeros of each output of an expert, and the positions: `(1, H + 1)`."""
    mask, outputs = mask_of(outputs), ops.stop_gradient(outputs)
    is_zero = ops.cast(outputs == 0, "float32")
    counted = ops.concatenate([is_zero, ops.ones_like(is_zero[..., :1])], axis=-1)
    if mask is not None:
        counted = counted * ops.expand_dims(ops.cast(mask, "float32"), -1)
    return ops.sum(ops.reshape(counted, (-1, counted.shape[-1])), axis=0, keepdims=True)


def _gate_use(weights: np.ndarray, experts: list[str]) -> GateUse:
    """Return the figures of a gate with weights `(positions, experts)`."""
    weights = weights[~(weights < 0).any(axis=-1)]
    is_finite = np.isfinite(weights).all(axis=-1)
    not_finite, weights = int((~is_finite).sum()), weights[is_finite]
    if not len(weights):
        weights = np.full((1, len(experts)), np.nan)
    largest = weights.max(axis=-1)
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=-1).mean()
    return GateUse(
        mean=dict(zip(experts, weights.mean(axis=0).tolist())),
        spread=dict(zip(experts, weights.std(axis=0).tolist())),
        entropy=float(entropy / np.log(len(experts))) if len(experts) > 1 else 0.0,
        max=float(largest.mean()),
        over_95=float((largest > COLLAPSED_WEIGHT).mean()),
        not_finite=not_finite,
    )


def _expert_uses(
    block: CGCBlock, gates: Mapping[str, GateUse], zeros: Mapping[str, np.ndarray]
) -> dict[str, ExpertUse]:
    uses = {}
    for expert in block.expert_names:
        weight = {gate: use.mean[expert] for gate, use in gates.items() if expert in use.mean}
        share = {}
        if expert.startswith(f"{SHARED}/"):
            of_tasks = {task: weight[task] for task in block.task_names}
            total = sum(of_tasks.values())
            share = {task: use / total if total else math.nan for task, use in of_tasks.items()}
        *of_units, count = zeros[expert].astype("float64").sum(axis=0)
        dead = np.array(of_units) >= DEAD_UNIT_SHARE * count
        uses[expert] = ExpertUse(weight, share, float(dead.mean()))
    return uses


def _to_json(value: object) -> Any:
    """Return nested dicts with strings as keys, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {
            ", ".join(key) if isinstance(key, tuple) else key: _to_json(item)
            for key, item in value.items()
        }
    return None if isinstance(value, float) and not math.isfinite(value) else value
