"""How a model uses its experts: figures, and what to try where they are bad."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from keras import ops

from ple_keras._batches import DEFAULT_SIZE
from ple_keras._levels import built_levels
from ple_keras._report_text import format_report
from ple_keras._validation import SHARED
from ple_keras.cgc import CGCBlock
from ple_keras.conflict import gradient_conflict
from ple_keras.inspection import watch

NEARLY_ALL = 0.95  # of a gate's weight
NEARLY_EVERY = 0.99  # of the examples
# What there are warnings of:
OFTEN = 0.9  # a gate collapsed in more of the examples; a task with more of a shared expert's use
HARDLY = 0.02  # an expert that no gate gives so much weight on average
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
    """

    mean: dict[str, float]
    spread: dict[str, float]
    entropy: float
    max: float
    over_95: float


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
        examples: The number of examples, or of positions, where an example has several.
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
        levels = {level: asdict(use) for level, use in self.levels.items()}
        for use in levels.values():
            use["conflict"] = {
                where: {
                    f"{a}, {b}": None if math.isnan(cosine) else cosine
                    for (a, b), cosine in cosines.items()
                }
                for where, cosines in use["conflict"].items()
            }
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

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        y: Labels by task. With them the report has the conflicts between tasks, averaged over
            the batches, see `gradient_conflict`.
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
    seen = watch(model, x, _look, batch_size, verbose)
    levels = built_levels(model)
    conflict = {} if y is None else gradient_conflict(model, x, y, batch_size or DEFAULT_SIZE)
    weights = {
        level: {
            gate: w.reshape(-1, w.shape[-1]).astype("float64") for gate, w in of["weights"].items()
        }
        for level, of in seen.items()
    }
    examples = len(next(iter(next(iter(weights.values())).values())))
    return GateReport(
        examples,
        {
            level: LevelUse(
                gates={
                    gate: _gate_use(weights[level][gate], experts)
                    for gate, experts in levels[level].gate_experts.items()
                },
                experts=_expert_uses(levels[level], weights[level], of["zeros"], examples),
                conflict=conflict.get(level, {}),
            )
            for level, of in seen.items()
        },
    )


def _look(weights: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The weights, and of each expert how often each output is 0, `(1, H)` a batch."""
    return {"weights": weights, "zeros": {name: _zeros(x) for name, x in outputs.items()}}


def _zeros(outputs: Any) -> Any:
    is_zero = ops.reshape(ops.cast(outputs == 0, "float32"), (-1, outputs.shape[-1]))
    return ops.sum(is_zero, axis=0, keepdims=True)


def _gate_use(weights: np.ndarray, experts: list[str]) -> GateUse:
    """From weights `(examples, experts)`."""
    largest = weights.max(axis=-1)
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=-1).mean()
    return GateUse(
        mean=dict(zip(experts, weights.mean(axis=0).tolist())),
        spread=dict(zip(experts, weights.std(axis=0).tolist())),
        entropy=float(entropy / np.log(len(experts))) if len(experts) > 1 else 0.0,
        max=float(largest.mean()),
        over_95=float((largest > NEARLY_ALL).mean()),
    )


def _expert_uses(
    block: CGCBlock, weights: Mapping[str, np.ndarray], zeros: Mapping[str, np.ndarray], count: int
) -> dict[str, ExpertUse]:
    uses = {}
    for expert in block.expert_names:
        weight = {
            gate: float(weights[gate][:, experts.index(expert)].mean())
            for gate, experts in block.gate_experts.items()
            if expert in experts
        }
        share = {}
        if expert.startswith(f"{SHARED}/"):
            of_tasks = {task: weight[task] for task in block.task_names}
            total = sum(of_tasks.values())
            share = {task: use / total if total else float("nan") for task, use in of_tasks.items()}
        dead = zeros[expert].astype("float64").sum(axis=0) >= NEARLY_EVERY * count
        uses[expert] = ExpertUse(weight, share, float(dead.mean()))
    return uses


def _warnings(level: str, use: LevelUse) -> Iterator[str]:
    for gate, gate_use in use.gates.items():
        if len(gate_use.mean) > 1 and gate_use.over_95 > OFTEN:
            favourite = max(gate_use.mean, key=gate_use.mean.__getitem__)
            is_one = gate_use.mean[favourite] > NEARLY_ALL
            yield (
                f"{level}: the gate of {gate} has collapsed onto "
                f"{favourite if is_one else 'one expert an example'}, whose weight is over "
                f"{NEARLY_ALL} for {gate_use.over_95:.0%} of the examples. Try a higher "
                "gate_softmax_temperature, gate_dropout=0.1 or expert_balance_regularizer=0.01."
            )
    for expert, expert_use in use.experts.items():
        yield from _expert_warnings(f"{level}: {expert}", expert_use)
    for where, cosines in use.conflict.items():
        for (first, second), cosine in cosines.items():
            if cosine < AGAINST:
                yield (
                    f"{level}: {first} and {second} pull {where} in opposite directions, the "
                    f"cosine of their gradients is {cosine:.2f}. Try more experts of their own."
                )


def _expert_warnings(expert: str, use: ExpertUse) -> Iterator[str]:
    if max(use.weight.values(), default=0.0) < HARDLY:
        yield (
            f"{expert} is hardly used: no gate gives it {HARDLY} on average. Try fewer experts, "
            "gate_dropout=0.1 or expert_balance_regularizer=0.01."
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
