"""Warnings of a gate report."""

import math
from collections.abc import Iterator, Mapping

from ple_keras.inspection._report_text import percent
from ple_keras.inspection.level_use import ExpertUse, LevelUse
from ple_keras.inspection.prediction_use import PredictionUse

COLLAPSED_WEIGHT = 0.95  # a gate has collapsed for an example with a larger weight
# Thresholds of the warnings:
LARGE_INPUT = 50  # root mean square; one of 30 had no effect on random data, 100 lowered the AUC
LARGE_SHARE = 0.9  # of the examples of a collapsed gate; of one task's use of a shared expert
UNUSED_SHARE = 0.1  # of a uniform weight, below which an expert is almost unused
DEAD_UNITS_SHARE = 0.5  # of an expert's units
CONFLICT_COSINE = -0.2  # between the gradients of two tasks
EVEN_ENTROPY = 0.99  # of a gate, with
EVEN_SPREAD = 0.02  # of each weight over the examples
CONSTANT_DEVIATION = 1e-6  # of predictions
CALIBRATION = (0.8, 1.25)  # over at least
CALIBRATION_LABELS = 100
EXPECTED_POSITIVES = 5  # of which the chance to see none is below 1 %


def input_warnings(levels: Mapping[str, LevelUse]) -> Iterator[str]:
    """Yield a warning for the first level with a large input, since later ones read its outputs."""
    large = [level for level, use in levels.items() if use.input_scale > LARGE_INPUT]
    for level in large[:1]:
        yield (
            f"{level}: an input is large, with a root mean square of "
            f"{levels[level].input_scale:,.0f}. Scale numbers before the block, such as with "
            "keras.layers.Normalization."
        )


def report_warnings(level: str, use: LevelUse) -> Iterator[str]:
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
                f"{COLLAPSED_WEIGHT} for {percent(gate_use.over_95)} of the examples. Try a higher "
                "gate_softmax_temperature, gate_dropout=0.1 or expert_balance_regularizer=0.01."
            )
        elif gate_use.entropy >= EVEN_ENTROPY and max(gate_use.spread.values()) <= EVEN_SPREAD:
            yield (
                f"{level}: the gate of {gate} gives every example almost equal weights, with an "
                f"entropy of {gate_use.entropy:.3f}. Try more training, a lower "
                "gate_softmax_temperature, a gate_block or a lower expert_balance_regularizer."
            )
    num_experts = {gate: len(gate_use.mean) for gate, gate_use in use.gates.items()}
    for expert, expert_use in use.experts.items():
        yield from _expert_warnings(f"{level}: {expert}", expert_use, num_experts)
    for place, cosines in use.conflict.items():
        conflicts = sorted(
            (cosine, pair) for pair, cosine in cosines.items() if cosine < CONFLICT_COSINE
        )
        if conflicts:
            cosine, (first, second) = conflicts[0]
            others = f" (and {len(conflicts) - 1} other pairs)" if conflicts[1:] else ""
            yield (
                f"{level}: the gradients of {first} and {second}{others} conflict in {place}, "
                f"with a cosine of {cosine:.2f}. Try more task experts."
            )


def prediction_warnings(task: str, use: PredictionUse) -> Iterator[str]:
    if use.deviation < CONSTANT_DEVIATION:
        yield (
            f"{task}: the predictions are constant, with a standard deviation of "
            f"{use.deviation:.0e}. Check the scale of the numbers in x, the labels and the "
            "dead units, or try a lower learning rate."
        )
    low, high = CALIBRATION
    is_off = use.calibration < low or use.calibration > high
    if is_off and use.labels >= CALIBRATION_LABELS:
        yield (
            f"{task}: the sum of the predictions is {use.calibration:.2f} times that of "
            f"{use.labels} labels. If the head has a pos_weight, divide the odds by it. Otherwise, "
            "check that missing labels are NaN, and that x is like the training data."
        )
    has_no_positive = math.isnan(use.calibration) and use.labels >= CALIBRATION_LABELS
    if has_no_positive and use.expected_positives >= EXPECTED_POSITIVES:
        yield (
            f"{task}: none of {use.labels} labels is positive, but the predictions expect "
            f"{use.expected_positives:.1f}. Check the labels, and that missing labels are NaN."
        )


def _expert_warnings(expert: str, use: ExpertUse, num_experts: Mapping[str, int]) -> Iterator[str]:
    """Yield the warnings of an expert; `num_experts` is the number of experts of each gate."""
    if all(weight * num_experts[gate] < UNUSED_SHARE for gate, weight in use.weight.items()):
        yield (
            f"{expert} is almost unused: each gate gives it less than {percent(UNUSED_SHARE)} of a "
            "uniform weight. Try fewer experts, gate_dropout=0.1 or "
            "expert_balance_regularizer=0.01."
        )
    elif len(use.share) > 1 and max(use.share.values()) > LARGE_SHARE:
        task = max(use.share, key=use.share.__getitem__)
        yield (
            f"{expert} is used almost only by {task}, with {percent(use.share[task])} of the "
            f"tasks' weight. Try gate_dropout=0.1, or one more task expert for {task}."
        )
    if use.dead_units > DEAD_UNITS_SHARE:
        yield (
            f"{expert} has {percent(use.dead_units)} dead units, 0 for almost every example. Try "
            'ExpertBlock(..., activation="swish", normalization="batch"), or a lower learning rate.'
        )
