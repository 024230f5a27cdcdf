"""How a model uses its experts: figures, and what to try where they are bad."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from keras import ops
from keras.src.backend import get_keras_mask

from ple_keras._batches import Batches
from ple_keras._levels import built_levels
from ple_keras._report_text import format_report
from ple_keras._validation import SHARED
from ple_keras.cgc import CGCBlock
from ple_keras.conflict import conflict_in
from ple_keras.inspection import watch

NEARLY_ALL = 0.95  # of a gate's weight
NEARLY_EVERY = 0.99  # of the examples
# What there are warnings of:
OFTEN = 0.9  # a gate collapsed in more of the examples; a task with more of a shared expert's use
HARDLY = 0.1  # an expert that no gate gives so much of an even share on average
MANY = 0.5  # more dead units
AGAINST = -0.2  # a lower cosine between gradients


@dataclass(frozen=True)
class GateUse:
    """What a gate did over the examples.

    Attributes:
        mean: The mean weight of each expert that it sees.
        spread: The standard deviation of each over the examples.
        entropy: The mean entropy over that of even weights, in [0, 1]; 0 with one expert.
        max: The mean largest weight.
        over_95: The share of examples whose largest weight is over 0.95.
        not_finite: The number of examples, left out of all that, whose weights are NaN.
    """

    mean: dict[str, float]
    spread: dict[str, float]
    entropy: float
    max: float
    over_95: float
    not_finite: int


@dataclass(frozen=True)
class ExpertUse:
    """Who uses an expert.

    Attributes:
        weight: The mean weight that each gate which sees it gives it.
        share: Of a shared expert: how its weights divide among the tasks, summing to 1.
        dead_units: The share of its outputs that are 0 for 99 % of the examples.
    """

    weight: dict[str, float]
    share: dict[str, float]
    dead_units: float


@dataclass(frozen=True)
class LevelUse:
    """A level: its gates, its experts, and the cosines between tasks' gradients, if asked for."""

    gates: dict[str, GateUse]
    experts: dict[str, ExpertUse]
    conflict: dict[str, dict[tuple[str, str], float]]


@dataclass(frozen=True)
class GateReport:
    """What `gate_report` found; printed, it is a table.

    Attributes:
        examples: The number of examples.
        levels: `{level: LevelUse}`.
    """

    examples: int
    levels: dict[str, LevelUse]

    @property
    def warnings(self) -> list[str]:
        """What looks unhealthy, and what to try."""
        return [text for level, use in self.levels.items() for text in _warnings(level, use)]

    def to_dict(self) -> dict[str, Any]:
        """All of it in dicts, lists, strings and numbers, as JSON takes them."""
        levels = {level: _plain(asdict(use)) for level, use in self.levels.items()}
        return {"examples": self.examples, "levels": levels, "warnings": self.warnings}

    def __str__(self) -> str:
        return format_report(self)


def gate_report(
    model: Any,
    x: Any,
    y: Any = None,
    batch_size: int | None = None,
    verbose: str | int = "auto",
) -> GateReport:
    """How a model's gates use its experts on given examples.

    Where examples are sequences, each position counts as one that no mask leaves out. Where several
    processes train one model, the report is of the examples given in this one.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        y: Labels by task. With them the report has the conflicts between tasks, averaged over
            the batches, see `gradient_conflict`; for arrays only.
        batch_size: The number of examples to run at once, 1024 by default; for arrays only.
        verbose: As for `gate_weights`.

    Returns:
        A GateReport: print it, or take `levels`, `warnings` and `to_dict()`.

    Raises:
        TypeError, ValueError: as `gate_weights`, and with `y` as `gradient_conflict`.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], gate_softmax_temperature=1e9, name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> round(report.levels["ple/0"].gates["click"].mean["shared/expert_0"], 4)
    0.5
    >>> report.levels["ple/0"].experts["shared/expert_0"].share["buy"]
    0.5
    """
    batches = None if y is None else Batches(x, y, batch_size)
    seen = watch(model, x, _look, batch_size, verbose)
    levels = built_levels(model)
    conflict = {} if batches is None else conflict_in(model, batches)
    uses = {}
    for level, of in seen.items():
        gates = {
            gate: _gate_use(of["weights"][gate].astype("float64"), experts)
            for gate, experts in levels[level].gate_experts.items()
        }
        experts = _expert_uses(levels[level], gates, of["zeros"])
        uses[level] = LevelUse(gates, experts, conflict.get(level, {}))
    return GateReport(int(next(iter(seen.values()))["examples"].sum()), uses)


def _look(weights: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the report is made of, each with an axis of batches or of positions first."""
    some = next(iter(outputs.values()))
    return {
        "weights": {gate: _rows(of_gate) for gate, of_gate in weights.items()},
        "zeros": {expert: _zeros(output) for expert, output in outputs.items()},
        "examples": ops.ones_like(ops.reshape(some, (ops.shape(some)[0], -1))[:, 0]),
    }


def _rows(weights: Any) -> Any:
    """Weights as `(positions, experts)`, below 0 where a mask leaves the position out."""
    mask = get_keras_mask(weights)
    if mask is not None:
        weights = ops.where(ops.expand_dims(mask, -1), weights, -ops.ones_like(weights))
    return ops.reshape(weights, (-1, weights.shape[-1]))


def _zeros(outputs: Any) -> Any:
    """How often each of an expert's outputs is 0, and of how many positions, `(1, H + 1)`."""
    mask, outputs = get_keras_mask(outputs), ops.stop_gradient(outputs)
    is_zero = ops.cast(outputs == 0, "float32")
    counted = ops.concatenate([is_zero, ops.ones_like(is_zero[..., :1])], axis=-1)
    if mask is not None:
        counted = counted * ops.expand_dims(ops.cast(mask, "float32"), -1)
    return ops.sum(ops.reshape(counted, (-1, counted.shape[-1])), axis=0, keepdims=True)


def _gate_use(weights: np.ndarray, experts: list[str]) -> GateUse:
    """From weights `(positions, experts)`."""
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
        over_95=float((largest > NEARLY_ALL).mean()),
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
        dead = np.array(of_units) >= NEARLY_EVERY * count
        uses[expert] = ExpertUse(weight, share, float(dead.mean()))
    return uses


def _plain(value: Any) -> Any:
    """Nested dicts with names for keys, and None for NaN."""
    if isinstance(value, dict):
        return {
            ", ".join(key) if isinstance(key, tuple) else key: _plain(item)
            for key, item in value.items()
        }
    return None if isinstance(value, float) and math.isnan(value) else value


def _warnings(level: str, use: LevelUse) -> Iterator[str]:
    for gate, gate_use in use.gates.items():
        if gate_use.not_finite:
            yield (
                f"{level}: the gate of {gate} gives no numbers for {gate_use.not_finite} examples, "
                "which are left out here. Look for NaN and infinities in x and in the weights."
            )
        if len(gate_use.mean) > 1 and gate_use.over_95 > OFTEN:
            favourite = max(gate_use.mean, key=gate_use.mean.__getitem__)
            is_one = gate_use.mean[favourite] > NEARLY_ALL
            yield (
                f"{level}: the gate of {gate} has collapsed onto "
                f"{favourite if is_one else 'one expert an example'}, whose weight is over "
                f"{NEARLY_ALL} for {gate_use.over_95:.0%} of the examples. Try a higher "
                "gate_softmax_temperature, gate_dropout=0.1 or expert_balance_regularizer=0.01."
            )
    seen = {gate: len(gate_use.mean) for gate, gate_use in use.gates.items()}
    for expert, expert_use in use.experts.items():
        yield from _expert_warnings(f"{level}: {expert}", expert_use, seen)
    for where, cosines in use.conflict.items():
        against = sorted((cosine, pair) for pair, cosine in cosines.items() if cosine < AGAINST)
        if against:
            cosine, (first, second) = against[0]
            others = f" (and {len(against) - 1} other pairs)" if against[1:] else ""
            yield (
                f"{level}: {first} and {second}{others} pull {where} in opposite directions, the "
                f"cosine of their gradients is {cosine:.2f}. Try more experts of their own."
            )


def _expert_warnings(expert: str, use: ExpertUse, seen: Mapping[str, int]) -> Iterator[str]:
    """Of an expert; `seen` is the number of experts that each gate sees."""
    if all(weight * seen[gate] < HARDLY for gate, weight in use.weight.items()):
        yield (
            f"{expert} is hardly used: no gate gives it {HARDLY:.0%} of an even share. Try fewer "
            "experts, gate_dropout=0.1 or expert_balance_regularizer=0.01."
        )
    elif len(use.share) > 1 and max(use.share.values()) > OFTEN:
        task = max(use.share, key=use.share.__getitem__)
        yield (
            f"{expert} serves {task} nearly alone, with {use.share[task]:.0%} of what the tasks "
            f"use of it. Try gate_dropout=0.1, or one more expert of its own for {task}."
        )
    if use.dead_units > MANY:
        yield (
            f"{expert} has {use.dead_units:.0%} dead units, 0 for nearly every example. Try "
            'ExpertBlock(..., activation="swish", normalization="batch"), or a lower learning rate.'
        )
