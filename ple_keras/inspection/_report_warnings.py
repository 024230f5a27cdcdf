"""What a report warns of."""

from collections.abc import Iterator, Mapping

from ple_keras.inspection.level_use import ExpertUse, LevelUse

COLLAPSED_WEIGHT = 0.95  # of a gate's weight
# Thresholds of the warnings:
LARGE_SHARE = 0.9  # of examples in which a gate collapsed; of a shared expert's use by one task
UNUSED_SHARE = 0.1  # of an even share of a gate's weight, below which an expert is hardly used
DEAD_UNITS_SHARE = 0.5  # of an expert's units
CONFLICT_COSINE = -0.2  # between the gradients of two tasks


def report_warnings(level: str, use: LevelUse) -> Iterator[str]:
    for gate, gate_use in use.gates.items():
        if gate_use.not_finite:
            yield (
                f"{level}: the gate of {gate} gives no numbers for {gate_use.not_finite} examples, "
                "which are left out here. Look for NaN and infinities in x and in the weights."
            )
        if len(gate_use.mean) > 1 and gate_use.over_95 > LARGE_SHARE:
            favourite = max(gate_use.mean, key=gate_use.mean.__getitem__)
            is_one = gate_use.mean[favourite] > COLLAPSED_WEIGHT
            yield (
                f"{level}: the gate of {gate} has collapsed onto "
                f"{favourite if is_one else 'one expert an example'}, whose weight is over "
                f"{COLLAPSED_WEIGHT} for {gate_use.over_95:.0%} of the examples. Try a higher "
                "gate_softmax_temperature, gate_dropout=0.1 or expert_balance_regularizer=0.01."
            )
    seen = {gate: len(gate_use.mean) for gate, gate_use in use.gates.items()}
    for expert, expert_use in use.experts.items():
        yield from _expert_warnings(f"{level}: {expert}", expert_use, seen)
    for where, cosines in use.conflict.items():
        against = sorted(
            (cosine, pair) for pair, cosine in cosines.items() if cosine < CONFLICT_COSINE
        )
        if against:
            cosine, (first, second) = against[0]
            others = f" (and {len(against) - 1} other pairs)" if against[1:] else ""
            yield (
                f"{level}: {first} and {second}{others} pull {where} in opposite directions, the "
                f"cosine of their gradients is {cosine:.2f}. Try more experts of their own."
            )


def _expert_warnings(expert: str, use: ExpertUse, seen: Mapping[str, int]) -> Iterator[str]:
    """Of an expert; `seen` is the number of experts that each gate sees."""
    if all(weight * seen[gate] < UNUSED_SHARE for gate, weight in use.weight.items()):
        yield (
            f"{expert} is hardly used: no gate gives it {UNUSED_SHARE:.0%} of an even share. "
            "Try fewer experts, gate_dropout=0.1 or expert_balance_regularizer=0.01."
        )
    elif len(use.share) > 1 and max(use.share.values()) > LARGE_SHARE:
        task = max(use.share, key=use.share.__getitem__)
        yield (
            f"{expert} serves {task} nearly alone, with {use.share[task]:.0%} of what the tasks "
            f"use of it. Try gate_dropout=0.1, or one more expert of its own for {task}."
        )
    if use.dead_units > DEAD_UNITS_SHARE:
        yield (
            f"{expert} has {use.dead_units:.0%} dead units, 0 for nearly every example. Try "
            'ExpertBlock(..., activation="swish", normalization="batch"), or a lower learning rate.'
        )
