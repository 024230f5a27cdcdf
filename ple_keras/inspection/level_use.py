"""How a level is used: figures of its gates and experts."""

from dataclasses import dataclass


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
