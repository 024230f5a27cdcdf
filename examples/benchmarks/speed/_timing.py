"""Timing of calls that take turns.

The speed of a machine varies over minutes. Therefore all calls are timed in many short rounds, one
turn per call in each round, and ratios are computed within a round.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

TURN_SECONDS = 0.1  # a turn has as many calls as fit, at least one
MAX_CALLS = 100

Seconds = list[float]


def measure_interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Seconds]:
    """Return the seconds per call, by name and round.

    Before the first round, every call runs three times. This compiles it and determines the number
    of calls per turn. Each round starts with a different call.
    """
    turns = {name: _calls_in_a_turn(name, call) for name, call in calls.items()}
    print(f"measuring: {rounds} rounds", flush=True)
    names = list(calls)
    seconds: dict[str, Seconds] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_seconds_per_call(calls[name], turns[name]))
    return seconds


def _calls_in_a_turn(name: str, call: Callable[[], Any]) -> int:
    print(f"compiling: {name}", flush=True)
    for _ in range(2):
        call()
    return int(np.clip(TURN_SECONDS / _seconds_per_call(call, 1), 1, MAX_CALLS))


def _seconds_per_call(call: Callable[[], Any], times: int) -> float:
    """Return the mean time of `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median over the rounds, in milliseconds."""
    return 1000 * float(np.median(seconds))


def median_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median of the ratios within a round."""
    return float(np.median(np.array(seconds) / np.array(baseline)))
