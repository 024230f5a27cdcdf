"""Calls that take turns, and what their times come to.

A machine is not equally fast from minute to minute. So what is to be compared is timed in many
short rounds, in each of which everything has its turn, and two times are divided within a round.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

TURN = 0.1  # seconds: a turn is as many calls as fit in, at least one
MOST_CALLS = 100

Seconds = list[float]


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Seconds]:
    """Seconds a call takes, by name and round.

    Before the first round everything is called three times, which compiles it and says how many
    calls a turn is to have. Each round begins with another one.
    """
    turns = {name: _calls_in_a_turn(name, call) for name, call in calls.items()}
    print(f"measuring: {rounds} rounds", flush=True)
    names = list(calls)
    seconds: dict[str, Seconds] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_seconds(calls[name], turns[name]))
    return seconds


def _calls_in_a_turn(name: str, call: Callable[[], Any]) -> int:
    print(f"compiling: {name}", flush=True)
    for _ in range(2):
        call()
    return int(np.clip(TURN / _seconds(call, 1), 1, MOST_CALLS))


def _seconds(call: Callable[[], Any], times: int) -> float:
    """What one of so many calls took."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def median_ms(seconds: Sequence[float]) -> float:
    """The median over the rounds, in milliseconds."""
    return 1000 * float(np.median(seconds))


def median_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """The median of the ratios within a round."""
    return float(np.median(np.array(seconds) / np.array(baseline)))
