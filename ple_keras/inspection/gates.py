"""The weights of a model's gates, and a report on gates and experts with warnings."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.batches import Batches
from ple_keras._keras.internals import get_mask
from ple_keras._typing import ByName, Nested
from ple_keras.inspection._report_text import Report, Row, cells, join_items, report_text, table
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.levels import built_levels
from ple_keras.steps.observing_model import ObservingModel, flatten_positions

DEAD_UNIT_SHARE = 0.99  # of the examples for which a dead unit is 0
COLLAPSED_WEIGHT = 0.95  # a gate has collapsed for an example with a larger weight
# Thresholds of the warnings:
COLLAPSED_SHARE = 0.9  # of the examples, above which a gate has collapsed
ONE_TASK_SHARE = 0.9  # of the tasks' weights, above which one task uses a shared expert alone
UNUSED_SHARE = 0.1  # of a uniform weight, below which an expert is almost unused
DEAD_UNITS_SHARE = 0.5  # of an expert's units, above which a warning names them
# A gate is even if its entropy is at least the first number, and the standard deviation of each
# weight over the examples is at most the second.
EVEN_ENTROPY, EVEN_SPREAD = 0.99, 0.02


def gate_weights(
    model: keras.Layer, x: Nested, batch_size: int | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return the weights of every gate of a model for each example.

    The model runs as in `predict`: without dropout and gate dropout. Gate statistics do not change
    and need not be enabled. Masked positions are included. If several processes train one model,
    each can call this function with its own `x`. Of a block that runs twice, the first run counts.

    Args:
        model: A built model that contains PLEBlocks, MMoEBlocks or CGCBlocks at any depth, except
            inside an expert, or such a block.
        x: Input as for `predict`: arrays, a dict or list of arrays, or batches, such as a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        batch_size: The number of examples per batch, only for arrays; by default 1024.

    Returns:
        `{level: {gate: (N, ..., experts)}}`, in at least float32. The levels are named as in
        `GateWeightsLogger`, and the experts have the order of `gate_experts`.

    Raises:
        TypeError: If `model` is not a Keras layer, or `x` is neither arrays nor batches.
        ValueError: If `model` has no such block, is not built, or fails on `x`, if `x` is empty or
            its batches differ in more than their size, or in the scope of a `tf.distribute`
            strategy with several replicas.

    Example:

    >>> ple = PLEBlock(2, ["click", "buy"], [8], num_task_experts=2, name="ple")
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, ple(inputs))
    >>> weights = gate_weights(model, np.ones((5, 3)))
    >>> {level: {gate: w.shape for gate, w in gates.items()} for level, gates in weights.items()}
    {'ple/0': {'click': (5, 3), 'buy': (5, 3), 'shared': (5, 5)}, 'ple/1': {'click': (5, 3), \
'buy': (5, 3)}}
    >>> ple[0].gate_experts["click"]
    ['click/expert_0', 'click/expert_1', 'shared/expert_0']
    """
    _, found = _observe_levels(model, x, batch_size, lambda weights, experts: weights)
    return {
        level: {gate: weights[gate] for gate in block.gate_experts}
        for level, (block, weights) in found.items()
    }


def _observe_levels(
    model: keras.Layer, x: Nested, batch_size: int | None, summarize: Callable[..., Nested]
) -> tuple[int, dict[str, tuple[CGCBlock, Any]]]:
    """Return the number of examples, and the blocks and figures of all levels that run.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        batch_size: As for `gate_weights`.
        summarize: A function from the gate weights and expert outputs of a level, keyed by name,
            to tensors, which are concatenated over the batches.
    """
    levels, batches = built_levels(model), Batches(x, batch_size=batch_size)
    observed = ObservingModel(
        model, lambda _, observer: {x: summarize(*found) for x, found in observer.levels.items()}
    )
    examples, by_batch = 0, []
    for batch, *_ in batches:
        by_batch.append(observed.run_batch(batch))
        examples += len(keras.tree.flatten(batch)[0])
    joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *by_batch)
    return examples, {key: (levels[key], joined[key]) for key in levels if key in joined}


@dataclass(frozen=True)
class GateUse:
    """Weights of a gate over the examples; NaN if the weights of any example are.

    Attributes:
        mean: The mean weight of each expert.
        spread: The standard deviation of each expert's weight over the examples.
        entropy: The mean entropy divided by its maximum, in [0, 1]; 0 with one expert.
        max: The mean of the largest weight.
        over_95: The share of examples whose largest weight is over 0.95.
    """

    mean: dict[str, float]
    spread: dict[str, float]
    entropy: float
    max: float
    over_95: float


@dataclass(frozen=True)
class ExpertUse:
    """Use of an expert by the gates.

    Attributes:
        weight: The mean weight of the expert in each gate that reads it.
        share: For a shared expert, each task's share of the task gates' weights, summing to 1.
        dead_units: The share of the expert's outputs that are 0 for at least 99% of the examples.
    """

    weight: dict[str, float]
    share: dict[str, float]
    dead_units: float


@dataclass(frozen=True)
class LevelUse:
    """Use of a level's gates and experts.

    Attributes:
        gates: `{gate: GateUse}`.
        experts: `{expert: ExpertUse}`.
    """

    gates: dict[str, GateUse]
    experts: dict[str, ExpertUse]


@dataclass(frozen=True)
class GateReport(Report):
    """Result of `gate_report`; prints as tables.

    Attributes:
        examples: The number of examples.
        levels: `{level: LevelUse}`. A LevelUse has `gates` and `experts`.
        warnings: Warnings about gates and experts, each with remedies.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> isinstance(report, GateReport), report.examples, list(report.levels)
    (True, 3, ['ple/0'])
    """

    examples: int
    levels: dict[str, LevelUse]
    warnings: list[str]

    def __str__(self) -> str:
        parts = [f"Gates and experts over {self.examples:,} examples"]
        for name, level in self.levels.items():
            mixing = {gate: use for gate, use in level.gates.items() if len(use.mean) > 1}
            tables = [table(_gate_rows(mixing))] if mixing else []
            parts.append("\n".join([name, *tables, table(_expert_rows(level.experts))]))
        return report_text(parts, self.warnings)


def gate_report(model: keras.Layer, x: Nested, batch_size: int | None = None) -> GateReport:
    """Report the use of a model's gates and experts on given examples.

    For tasks, use `task_report`. In sequences, each unmasked position counts as an example. If
    several processes train one model, the report covers the examples passed in this process.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        batch_size: As for `gate_weights`.

    Returns:
        A GateReport: print it, or use `levels`, `warnings` and `to_dict()`.

    Raises:
        TypeError, ValueError: As for `gate_weights`.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], gate_softmax_temperature=1e9, name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> round(report.levels["ple/0"].gates["click"].mean["shared/expert_0"], 4)
    0.5
    >>> report.levels["ple/0"].experts["shared/expert_0"].share["buy"]
    0.5
    """
    examples, found = _observe_levels(model, x, batch_size, _batch_figures)
    levels, warnings = {}, []
    for level, (block, figures) in found.items():
        gates = {g: _gate_use(figures["weights"][g], x) for g, x in block.gate_experts.items()}
        experts = {e: _expert_use(e, figures["zeros"][e], gates, block) for e in block.expert_names}
        levels[level] = LevelUse(gates, experts)
        warnings += [f"{level}: {text}" for text in _warnings(levels[level])]
    return GateReport(examples, levels, warnings)


def _batch_figures(weights: ByName, outputs: ByName) -> dict[str, ByName]:
    """Return arrays whose first axis is positions or batches, to concatenate.

    "zeros" counts the unmasked positions where each unit is 0, and in total: `(1, 2, units)`.
    """
    flat = {gate: flatten_positions(w, get_mask(w), -1) for gate, w in weights.items()}
    zeros = {}
    for expert, output in outputs.items():
        units = flatten_positions(output, get_mask(output), math.nan)
        counted = ops.stack([ops.equal(units, 0), ops.logical_not(ops.isnan(units))])
        zeros[expert] = ops.sum(ops.cast(counted, "float32"), axis=1)[None]
    return {"weights": flat, "zeros": zeros}


def _gate_use(weights: np.ndarray, experts: list[str]) -> GateUse:
    """Return the figures of a gate with weights `(positions, experts)`."""
    weights = weights[~(weights < 0).any(axis=-1)].astype("float64")
    largest = weights.max(axis=-1)
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=-1).mean()
    return GateUse(
        mean=dict(zip(experts, weights.mean(axis=0).tolist())),
        spread=dict(zip(experts, weights.std(axis=0).tolist())),
        entropy=float(entropy / np.log(len(experts))) if len(experts) > 1 else 0.0,
        max=float(largest.mean()),
        over_95=float((largest > COLLAPSED_WEIGHT).mean()),
    )


def _expert_use(
    expert: str, counts: np.ndarray, gates: Mapping[str, GateUse], block: CGCBlock
) -> ExpertUse:
    """Return the figures of an expert from the "zeros" of all batches."""
    weight = {name: gate.mean[expert] for name, gate in gates.items() if expert in gate.mean}
    share = {}
    if expert in block._connections.experts_of(SHARED):
        total = sum(weight[task] for task in block.task_names)
        share = {task: weight[task] / total if total else math.nan for task in block.task_names}
    zeros, positions = counts.astype("float64").sum(axis=0)
    is_dead = zeros / np.maximum(positions, 1) >= DEAD_UNIT_SHARE
    return ExpertUse(weight, share, float(is_dead.mean()))


def _warnings(level: LevelUse) -> Iterator[str]:
    for name, gate in level.gates.items():
        if len(gate.mean) > 1 and gate.over_95 > COLLAPSED_SHARE:
            yield (
                f"the gate of {name} has collapsed, with a weight over {COLLAPSED_WEIGHT} for "
                f"{gate.over_95:.0%} of the examples. Try a higher gate_softmax_temperature, "
                "dropout or balance_regularizer in gate_kwargs."
            )
        elif gate.entropy >= EVEN_ENTROPY and max(gate.spread.values()) <= EVEN_SPREAD:
            yield (
                f"the gate of {name} assigns almost equal weights to all experts, with an entropy "
                f"of {gate.entropy:.3f}. Try more training, a lower gate_softmax_temperature or a "
                "gate_block."
            )
    uniform = {name: 1 / len(gate.mean) for name, gate in level.gates.items()}
    for expert, use in level.experts.items():
        if all(w < UNUSED_SHARE * uniform[gate] for gate, w in use.weight.items()):
            yield (
                f"{expert} is almost unused: each gate assigns it less than {UNUSED_SHARE:.0%} "
                "of a uniform weight. Try fewer experts, or a higher dropout or "
                "balance_regularizer in gate_kwargs."
            )
        elif len(use.share) > 1 and max(use.share.values()) > ONE_TASK_SHARE:
            task = max(use.share, key=use.share.__getitem__)
            yield (
                f"{expert} is used almost only by {task}, with {use.share[task]:.0%} of "
                "the tasks' weight. Try a higher dropout in gate_kwargs, or one more task expert "
                f"for {task}."
            )
        if use.dead_units > DEAD_UNITS_SHARE:
            yield (
                f"{expert} has {use.dead_units:.0%} dead units, 0 for almost every "
                'example. Try ExpertBlock(..., activation="swish", normalization="batch"), or a '
                "lower learning rate."
            )


def _gate_rows(gates: Mapping[str, GateUse]) -> Iterator[Row]:
    yield "gate", "entropy", "largest weight", "over 0.95", "mean weight ± standard deviation"
    for name, gate in gates.items():
        weights = join_items(f"{e} {gate.mean[e]:.2f} ± {gate.spread[e]:.2f}" for e in gate.mean)
        yield name, *cells(gate, entropy=".2f", max=".2f", over_95=".0%"), weights


def _expert_rows(experts: Mapping[str, ExpertUse]) -> Iterator[Row]:
    yield "expert", "dead units", "mean weight by gate (share of the tasks' weight)"
    for name, expert in experts.items():
        shares = {task: f" ({share:.0%})" for task, share in expert.share.items()}
        weights = (f"{gate} {w:.2f}{shares.get(gate, '')}" for gate, w in expert.weight.items())
        yield name, *cells(expert, dead_units=".0%"), join_items(weights)
