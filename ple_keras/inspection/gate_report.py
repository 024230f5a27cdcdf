"""A report on the use of a model's gates and experts, with warnings."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.batches import Batches
from ple_keras._keras.internals import mask_of
from ple_keras._typing import ByName, Nested, Streams, Tensor
from ple_keras.inspection._observed_model import observe_model
from ple_keras.inspection._report_text import (
    Row,
    join_items,
    percent,
    table_lines,
    to_json,
    warning_block,
)
from ple_keras.inspection.levels import built_levels
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock

DEAD_UNIT_SHARE = 0.99  # of the examples for which a dead unit is 0
COLLAPSED_WEIGHT = 0.95  # a gate has collapsed for an example with a larger weight
# Thresholds of the warnings:
LARGE_INPUT = 50  # root mean square; one of 30 had no effect on random data, 100 lowered the AUC
LARGE_SHARE = 0.9  # of the examples of a collapsed gate; of one task's use of a shared expert
UNUSED_SHARE = 0.1  # of a uniform weight, below which an expert is almost unused
DEAD_UNITS_SHARE = 0.5  # of an expert's units
EVEN_ENTROPY = 0.99  # of a gate, with
EVEN_SPREAD = 0.02  # of each weight over the examples
FIRST_VALUES = {"gate_dropout": 0.1, "expert_balance_regularizer": 0.01}  # to try


@dataclass(frozen=True)
class GateUse:
    """Weights of a gate over the examples.

    Attributes:
        mean: The mean weight of each expert.
        spread: The standard deviation of each expert's weight over the examples.
        entropy: The mean entropy divided by that of uniform weights, in [0, 1]; 0 with one expert.
        max: The mean of the largest weight.
        over_95: The share of examples whose largest weight is over 0.95.
        not_finite: The number of examples with non-finite weights, left out of all else.
    """

    mean: dict[str, float]
    spread: dict[str, float]
    entropy: float
    max: float
    over_95: float
    not_finite: int


@dataclass(frozen=True)
class ExpertUse:
    """Use of an expert by the gates.

    Attributes:
        weight: The mean weight of the expert in each gate that reads it.
        share: For a shared expert, each task's share of the task gates' weights, summing to 1.
        dead_units: The share of the expert's outputs that are 0 for at least 99 % of the examples.
        size: The units of an ExpertBlock, or the number of weights of another layer, if the level
            has different experts by stream; else "".
    """

    weight: dict[str, float]
    share: dict[str, float]
    dead_units: float
    size: str = ""


@dataclass(frozen=True)
class LevelOptions:
    """Options of a level that the advice of a report takes into account.

    Attributes:
        gate_softmax_temperature: As for `CGCBlock`, and so are the next three.
        gate_dropout: The probability of dropping an expert.
        expert_balance_regularizer: The coefficient of the loss against unused experts.
        gate_reads: The input of the gates.
        has_gate_block: Whether the gates have a `gate_block`.
    """

    gate_softmax_temperature: float
    gate_dropout: float
    expert_balance_regularizer: float
    gate_reads: str
    has_gate_block: bool


@dataclass(frozen=True)
class LevelUse:
    """Use of a level's gates and experts.

    Attributes:
        gates: The use of each gate.
        experts: The use of each expert.
        isolated: Whether the shared gate mixes task experts without training them.
        input_scale: The largest root mean square, over the examples, of a number that the level
            reads. Masked positions, NaN and the context of gates are left out.
        options: The options of the level.
    """

    gates: dict[str, GateUse]
    experts: dict[str, ExpertUse]
    isolated: bool
    input_scale: float
    options: LevelOptions


@dataclass(frozen=True)
class GateReport:
    """Result of `gate_report`; prints as tables.

    Attributes:
        examples: The number of examples.
        levels: `{level: LevelUse}`. A LevelUse has `gates`, `experts`, `isolated`, `input_scale`
            and `options`.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> isinstance(report, GateReport), report.examples, list(report.levels)
    (True, 3, ['ple/0'])
    """

    examples: int
    levels: dict[str, LevelUse]

    @property
    def warnings(self) -> list[str]:
        """Warnings about inputs, gates and experts, each with remedies."""
        of_levels = (_level_warnings(level, use) for level, use in self.levels.items())
        return list(chain(_input_warnings(self.levels), *of_levels))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, strings and numbers, ready for JSON."""
        return {**to_json(asdict(self)), "warnings": self.warnings}

    def __str__(self) -> str:
        return _format(self)


def gate_report(
    model: keras.Layer, x: Nested, batch_size: int | None = None, verbose: str | int = "auto"
) -> GateReport:
    """Report the use of a model's gates and experts on given examples.

    `task_report` covers the tasks. In sequences, each unmasked position counts as an example. If
    several processes train one model, the report covers the examples given in this process.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        batch_size: The number of examples per batch, 1024 by default; for arrays only.
        verbose: As for `gate_weights`.

    Returns:
        A GateReport: print it, or use `levels`, `warnings` and `to_dict()`.

    Raises:
        TypeError, ValueError: As `gate_weights`.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], gate_softmax_temperature=1e9, name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> round(report.levels["ple/0"].gates["click"].mean["shared/expert_0"], 4)
    0.5
    >>> report.levels["ple/0"].experts["shared/expert_0"].share["buy"]
    0.5
    """
    levels = built_levels(model)
    figures = observe_model(model, Batches(x, batch_size=batch_size), _level_figures, verbose)
    uses = {}
    for level, of_level in figures.items():
        gates = {
            gate: _gate_use(of_level["weights"][gate].astype("float64"), experts)
            for gate, experts in levels[level].gate_experts.items()
        }
        experts = _expert_uses(levels[level], gates, of_level["zeros"])
        isolated = levels[level]._wiring.is_isolated
        scale = _input_scale(of_level["input_squares"])
        options = _options(levels[level])
        uses[level] = LevelUse(gates, experts, isolated, scale, options)
    examples = int(next(iter(figures.values()))["examples"].sum())
    return GateReport(examples, uses)


def _level_figures(inputs: Streams, weights: ByName, outputs: ByName) -> dict[str, Any]:
    """Return the figures of a batch; their first axis is positions or batches, to concatenate."""
    first = next(iter(outputs.values()))
    return {
        "weights": {gate: _flatten_positions(of_gate) for gate, of_gate in weights.items()},
        "zeros": {
            expert: _sums_and_counts(output == 0, mask_of(output))
            for expert, output in outputs.items()
        },
        "examples": ops.ones_like(ops.reshape(first, (ops.shape(first)[0], -1))[:, 0]),
        "input_squares": keras.tree.map_structure(
            lambda x: _sums_and_counts(ops.square(ops.cast(x, "float32")), mask_of(x)), inputs
        ),
    }


def _sums_and_counts(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sum D numbers over the unmasked positions without NaN, and count these: `(1, 2 D)`."""
    values = ops.cast(values, "float32")
    is_kept = ops.logical_not(ops.isnan(values))
    if mask is not None:
        is_kept = ops.logical_and(is_kept, ops.expand_dims(ops.cast(mask, "bool"), -1))
    kept = ops.where(is_kept, values, ops.zeros_like(values))
    summed = ops.concatenate([kept, ops.cast(is_kept, "float32")], axis=-1)
    return ops.sum(ops.reshape(summed, (-1, summed.shape[-1])), axis=0, keepdims=True)


def _mean_over_batches(sums_and_counts: np.ndarray) -> np.ndarray:
    """Return the means from the results of `_sums_and_counts`; 0 without a position."""
    sums, counts = np.split(sums_and_counts.astype("float64").sum(axis=0), 2)
    means: np.ndarray = sums / np.maximum(counts, 1)
    return means


def _input_scale(squares: Nested) -> float:
    """Return the largest root mean square of a number."""
    return float(np.sqrt(max(_mean_over_batches(x).max() for x in keras.tree.flatten(squares))))


def _flatten_positions(weights: Tensor) -> Tensor:
    """Return weights as `(positions, experts)`, with -1 at masked positions."""
    mask = mask_of(weights)
    if mask is not None:
        weights = ops.where(ops.expand_dims(mask, -1), weights, -ops.ones_like(weights))
    return ops.reshape(weights, (-1, weights.shape[-1]))


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
        dead = _mean_over_batches(zeros[expert]) >= DEAD_UNIT_SHARE
        uses[expert] = ExpertUse(weight, share, float(dead.mean()), _size(block, expert))
    return uses


def _size(block: CGCBlock, expert: str) -> str:
    size = block._expert_templates.sizes().get(block._wiring.experts[expert], "")
    if not size or size.startswith("["):
        return size
    slices = block._level.bank.slices(expert)
    return f"{sum(math.prod(variable.shape[len(index) :]) for variable, index in slices):,} weights"


def _options(block: CGCBlock) -> LevelOptions:
    return LevelOptions(
        block.gate_softmax_temperature,
        block.gate_dropout,
        block.expert_balance_regularizer,
        block.gate_reads,
        block._gate_template is not None,
    )


def _input_warnings(levels: Mapping[str, LevelUse]) -> Iterator[str]:
    """Yield a warning for the first level with a large input, since later ones read its outputs."""
    large = [level for level, use in levels.items() if use.input_scale > LARGE_INPUT]
    for level in large[:1]:
        yield (
            f"{level}: an input is large, with a root mean square of "
            f"{levels[level].input_scale:,.0f}. Scale numbers before the block, such as with "
            "keras.layers.Normalization."
        )


def _level_warnings(level: str, use: LevelUse) -> Iterator[str]:
    options = use.options
    for gate, gate_use in use.gates.items():
        if gate_use.not_finite:
            yield (
                f"{level}: the gate of {gate} returns non-finite weights for "
                f"{gate_use.not_finite} examples, which this report leaves out. Check x and the "
                "model's weights for NaN and infinity."
            )
        if len(gate_use.mean) > 1 and gate_use.over_95 > LARGE_SHARE:
            top_expert = max(gate_use.mean, key=gate_use.mean.__getitem__)
            is_same_expert = gate_use.mean[top_expert] > COLLAPSED_WEIGHT
            yield (
                f"{level}: the gate of {gate} has collapsed onto "
                f"{top_expert if is_same_expert else 'one expert per example'}, with a weight over "
                f"{COLLAPSED_WEIGHT} for {percent(gate_use.over_95)} of the examples. Try "
                f"{_temperature('higher', options)}, {_higher('gate_dropout', options)} or "
                f"{_higher('expert_balance_regularizer', options)}."
            )
        elif gate_use.entropy >= EVEN_ENTROPY and max(gate_use.spread.values()) <= EVEN_SPREAD:
            yield (
                f"{level}: the gate of {gate} gives every example almost equal weights, with an "
                f"entropy of {gate_use.entropy:.3f}. Try {_remedies_for_even_gates(options)}."
            )
    num_experts = {gate: len(gate_use.mean) for gate, gate_use in use.gates.items()}
    for expert, expert_use in use.experts.items():
        yield from _expert_warnings(f"{level}: {expert}", expert_use, num_experts, options)


def _expert_warnings(
    expert: str, use: ExpertUse, num_experts: Mapping[str, int], options: LevelOptions
) -> Iterator[str]:
    """Yield the warnings of an expert; `num_experts` is the number of experts of each gate."""
    if all(weight * num_experts[gate] < UNUSED_SHARE for gate, weight in use.weight.items()):
        yield (
            f"{expert} is almost unused: each gate gives it less than {percent(UNUSED_SHARE)} of "
            f"a uniform weight. Try fewer experts, {_higher('gate_dropout', options)} or "
            f"{_higher('expert_balance_regularizer', options)}."
        )
    elif len(use.share) > 1 and max(use.share.values()) > LARGE_SHARE:
        task = max(use.share, key=use.share.__getitem__)
        yield (
            f"{expert} is used almost only by {task}, with {percent(use.share[task])} of the "
            f"tasks' weight. Try {_higher('gate_dropout', options)}, or one more task expert for "
            f"{task}."
        )
    if use.dead_units > DEAD_UNITS_SHARE:
        yield (
            f"{expert} has {percent(use.dead_units)} dead units, 0 for almost every example. Try "
            'ExpertBlock(..., activation="swish", normalization="batch"), or a lower learning rate.'
        )


def _temperature(direction: str, options: LevelOptions) -> str:
    value = options.gate_softmax_temperature
    return f"a {direction} gate_softmax_temperature" + ("" if value == 1 else f" than {value:g}")


def _higher(argument: str, options: LevelOptions) -> str:
    """Return the advice to set an argument to its first value, or above its own value."""
    first, value = FIRST_VALUES[argument], getattr(options, argument)
    return f"{argument}={first}" if value < first else f"a higher {argument} than {value:g}"


def _remedies_for_even_gates(options: LevelOptions) -> str:
    remedies = ["more training", _temperature("lower", options)]
    if not options.has_gate_block:
        remedies.append("a gate_block")
    if options.expert_balance_regularizer:
        coefficient = options.expert_balance_regularizer
        remedies.append(f"a lower expert_balance_regularizer than {coefficient:g}")
    if options.gate_reads == "context":
        remedies.append('gate_reads="both"')
    return f"{', '.join(remedies[:-1])} or {remedies[-1]}"


def _format(report: GateReport) -> str:
    """Return the tables of every level of a GateReport, and its warnings."""
    blocks = [f"Gates and experts over {report.examples:,} examples"]
    for level, use in report.levels.items():
        title = f"{level} (isolated: the shared gate does not train task experts)"
        title = title if use.isolated else level
        mixing = {gate: of_gate for gate, of_gate in use.gates.items() if len(of_gate.mean) > 1}
        lines = [
            title,
            *(table_lines(_gate_rows(mixing)) if mixing else []),
            *table_lines(_expert_rows(use.experts)),
        ]
        blocks.append("\n".join(lines))
    if report.warnings:
        blocks.append(warning_block(report.warnings))
    return "\n\n".join(blocks)


def _gate_rows(gates: Mapping[str, GateUse]) -> Iterator[Row]:
    yield "gate", "entropy", "largest weight", "over 0.95", "mean weight ± standard deviation"
    for gate, use in gates.items():
        weights = (
            f"{expert} {use.mean[expert]:.2f} ± {use.spread[expert]:.2f}" for expert in use.mean
        )
        row = f"{use.entropy:.2f}", f"{use.max:.2f}", percent(use.over_95), join_items(weights)
        yield gate, *row


def _expert_rows(experts: Mapping[str, ExpertUse]) -> Iterator[Row]:
    has_sizes = any(use.size for use in experts.values())
    last = "mean weight by gate (share of the tasks' weight)"
    yield "expert", *(["size"] if has_sizes else []), "dead units", last
    for expert, use in experts.items():
        shares = {task: f" ({percent(share)})" for task, share in use.share.items()}
        weights = (f"{gate} {w:.2f}{shares.get(gate, '')}" for gate, w in use.weight.items())
        size = [use.size] if has_sizes else []
        yield expert, *size, percent(use.dead_units), join_items(weights)
