"""Time and memory of the first step in a new process.

Every variant runs in its own process. In a process that has already run other variants, the peak
memory may be theirs. Imports and the backend's start are not measured: a tiny model of the same
kind makes a step first.

Memory is the growth of the process's peak resident memory, starting before the model is built. It
contains weights, Adam's moments, activations and the memory for compiling. With a GPU, only the
host's memory is measured.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from _cases import Case

TINY = Case(tasks=2, experts=(2,), levels=1, features=2, batch=2)
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Fresh:
    """Measurements of a new process.

    Attributes:
        backend: The backend of Keras.
        parameters: The number of trainable parameters.
        build_seconds: Time for building the model and for Keras's `compile`.
        first_seconds: Time of the first training step, or prediction if the case does not train.
        step_seconds: Times of the following steps.
        peak_megabytes: The growth of the peak memory.
    """

    backend: str
    parameters: int
    build_seconds: float
    first_seconds: float
    step_seconds: list[float]
    peak_megabytes: float


def measure_fresh(name: str, case: Case, steps: int, xla: bool = False) -> Fresh:
    """Run a variant in a new process. KERAS_BACKEND of the environment selects the backend.

    Args:
        name: The variant.
        case: The sizes.
        steps: Number of steps after the first one.
        xla: See `_variants.build`.
    """
    request = json.dumps({"name": name, "case": asdict(case), "steps": steps, "xla": xla})
    # A cache of compiled programs would hide the time for compiling.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    process = subprocess.run(
        [sys.executable, __file__, request], env=environment, capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(f"{name} failed in a new process:\n{process.stderr}")
    return Fresh(**json.loads(process.stdout.splitlines()[-1]))


def _measure(name: str, case: Case, steps: int, xla: bool) -> Fresh:
    import keras
    from _variants import build

    build(name, TINY, xla).train()
    before = _peak_megabytes()
    start = time.perf_counter()
    variant = build(name, case, xla)
    step = variant.train if case.trains else variant.predict
    times = [time.perf_counter()]
    for _ in range(steps + 1):
        step()
        times.append(time.perf_counter())
    first, *others = (end - begin for begin, end in pairwise(times))
    return Fresh(
        backend=keras.backend.backend(),
        parameters=variant.parameters,
        build_seconds=times[0] - start,
        first_seconds=first,
        step_seconds=others,
        peak_megabytes=_peak_megabytes() - before,
    )


def _peak_megabytes() -> float:
    """Return the largest resident memory so far.

    On Linux, `ru_maxrss` is at least the parent's memory at the start of this process.
    """
    if STATUS.exists():
        peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    import resource

    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return peak_bytes / 2**20


def main() -> None:
    """Measure the variant in the only argument. Print the result as the last line."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    sizes = request.pop("case")
    case = Case(**{**sizes, "experts": tuple(sizes["experts"])})
    print(json.dumps(asdict(_measure(case=case, **request))))


if __name__ == "__main__":
    main()
