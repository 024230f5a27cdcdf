"""Figures on the use of a level's gates and experts."""

from dataclasses import dataclass


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
    """

    weight: dict[str, float]
    share: dict[str, float]
    dead_units: float


@dataclass(frozen=True)
class LevelUse:
    """Use of a level's gates and experts, and gradient conflicts if labels were given.

    Attributes:
        gates: The use of each gate.
        experts: The use of each expert.
        conflict: The cosines of `gradient_conflict`.
        isolated: Whether the shared gate mixes task experts without training them.
        input_scale: The largest root mean square, over the examples, of a number that the level
            reads. Masked positions, NaN and the context of gates are left out.
    """

    gates: dict[str, GateUse]
    experts: dict[str, ExpertUse]
    conflict: dict[str, dict[tuple[str, str], float]]
    isolated: bool
    input_scale: float
