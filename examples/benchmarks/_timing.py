"""Timing of calls that take turns, and measurements in new processes.

The speed of a machine varies over minutes. Therefore all calls are timed in many short rounds, one
turn per call in each round, and ratios are computed within a round.

This module does not import Keras: a backend may not be selected yet.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
STATUS = Path("/proc/self/status")
TURN_SECONDS = 0.1  # a turn has as many calls as fit, at least one
MAX_CALLS = 100
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}

Seconds = list[float]


def start_backend() -> str:
    """Give the backend one thread, print the version of Keras, and return the backend's name."""
    os.environ.update(ONE_THREAD)
    import keras

    backend: str = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    print(f"Keras {keras.__version__} on {backend}")
    return backend


def measure_interleaved(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Seconds]:
    """Return the seconds per call, by name and round.

    Before the first round, every call runs three times. This compiles it and determines the number
    of calls per turn. Each round starts with a different call.
    """

    def seconds_per_call(call: Callable[[], Any], times: int) -> float:
        start = clock()
        for _ in range(times):
            call()
        return (clock() - start) / times

    turns = {}
    for name, call in calls.items():
        seconds_per_call(call, 2)
        taken = max(seconds_per_call(call, 1), 1e-9)
        turns[name] = int(np.clip(TURN_SECONDS / taken, 1, MAX_CALLS))
    names = list(calls)
    seconds: dict[str, Seconds] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_per_call(calls[name], turns[name]))
    return seconds


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median over the rounds, in milliseconds."""
    return 1000 * float(np.median(seconds))


def median_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median of the ratios within a round."""
    return float(np.median(np.array(seconds) / np.array(baseline)))


def run_in_new_process(module: str, request: Any, environment: Mapping[str, str] = {}) -> Any:
    """Run a module of this package in a new process, and return the JSON of its last line.

    Args:
        module: The module's name. It gets `--measure` and the request in JSON.
        request: The measurement.
        environment: Variables to set.
    """
    # A cache of compiled programs would hide the time for compiling.
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    process = subprocess.run(
        [sys.executable, "-m", f"{__package__}.{module}", "--measure", json.dumps(request)],
        env={**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise RuntimeError(f"{request} failed in a new process:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def peak_megabytes() -> float:
    """Return the largest resident memory of this process so far.

    On Linux, `ru_maxrss` is at least the parent's memory at the start of this process.
    """
    if STATUS.exists():
        peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in bytes on macOS
