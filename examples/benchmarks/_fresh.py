"""What a process that has done nothing else needs for its first step: time and memory.

A process of its own for every variant: in one that has measured something already, the peak of
memory may be an earlier one. Imports and the backend's start are not counted: a tiny model of the
same kind makes a step before.

Memory is the growth of the peak of the process's resident memory from before the model is built:
weights, Adam's moments, activations, and what compiling took. With a GPU it is the host's memory
only.
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
    """What a new process measured.

    Attributes:
        backend: The backend of Keras.
        parameters: Of the model; those that are trained.
        build_seconds: Building and compiling (in Keras's sense) the model.
        first_seconds: The first training step, or prediction where the case does not train.
        step_seconds: The steps after it, one by one.
        peak_megabytes: The growth of the peak memory.
    """

    backend: str
    parameters: int
    build_seconds: float
    first_seconds: float
    step_seconds: list[float]
    peak_megabytes: float


def measure_fresh(name: str, case: Case, steps: int, xla: bool = False) -> Fresh:
    """Run a variant in a new process; the backend is that of the environment, KERAS_BACKEND.

    Args:
        name: The variant.
        case: The sizes.
        steps: How many steps follow the first one.
        xla: As for `_variants.build`.
    """
    request = json.dumps({"name": name, "case": asdict(case), "steps": steps, "xla": xla})
    # A cache of compiled programs would hide what compiling costs.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    process = subprocess.run(
        [sys.executable, __file__, request], env=environment, capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(f"{name} failed in its own process:\n{process.stderr}")
    return Fresh(**json.loads(process.stdout.splitlines()[-1]))


def _measure(name: str, case: Case, steps: int, xla: bool) -> Fresh:
    import keras
    from _variants import build

    build(name, TINY, xla).train()
    before = _peak_megabytes()
    start = time.perf_counter()
    variant = build(name, case, xla)
    step = variant.train if case.trains else variant.predict
    marks = [time.perf_counter()]
    for _ in range(steps + 1):
        step()
        marks.append(time.perf_counter())
    first, *others = (end - begin for begin, end in pairwise(marks))
    return Fresh(
        backend=keras.backend.backend(),
        parameters=variant.parameters,
        build_seconds=marks[0] - start,
        first_seconds=first,
        step_seconds=others,
        peak_megabytes=_peak_megabytes() - before,
    )


def _peak_megabytes() -> float:
    """The largest resident memory so far.

    On Linux `ru_maxrss` is at least what the parent had when it started this process.
    """
    if STATUS.exists():
        peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    import resource

    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return peak_bytes / 2**20


def main() -> None:
    """Do what the only argument asks for, and print the answer last."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    sizes = request.pop("case")
    case = Case(**{**sizes, "experts": tuple(sizes["experts"])})
    print(json.dumps(asdict(_measure(case=case, **request))))


if __name__ == "__main__":
    main()
