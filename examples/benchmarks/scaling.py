"""Measure how time and memory grow with the number of experts, tasks and levels.

    KERAS_BACKEND=jax python -m examples.benchmarks.scaling
    KERAS_BACKEND=torch python -m examples.benchmarks.scaling --curve tasks --variants ours loop

Each of three curves varies one size:

    experts   2 tasks, 4 to 128 experts per level, a quarter for each task and half shared
    tasks     2 to 32 tasks with 1 expert each and 2 shared experts
    levels    1 to 6 levels of 4 tasks, 2 + 2 experts

In addition, "large" is one block with 30 tasks, 64 experts per level and 4 levels. All have experts
[64, 32], 32 features and a batch of 512. "A" is case A of `step_time`, also for other libraries
(`--variants floor loop ours torch-rechub`).

Every row is measured in a new process: in one that has already measured others, the peak memory
could be theirs. The columns are the seconds for building the model and for the first training step,
which traces and compiles; the median of the following steps; and the growth of the peak memory of
the host, which contains weights, Adam's moments, activations and the memory for compiling. Imports
and the backend's start are not measured: a tiny model takes a step first. The floor
(`_step_models`) has the same multiply-adds but no experts or gates.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise

from ._peers import PEERS
from ._step_models import CASES, NETWORKS, Case, build
from ._tables import align_columns, make_parser
from ._timing import median_ms, peak_megabytes, run_in_new_process

TINY = Case(tasks=2, experts=(2,), levels=1, features=2, batch=2)
BASE = Case(tasks=4, experts=(64, 32), levels=2, features=32, batch=512)
CURVES = {
    "experts": {
        count: replace(BASE, tasks=2, task_experts=count // 4, shared_experts=count // 2)
        for count in (4, 16, 64, 128)
    },
    "tasks": {count: replace(BASE, tasks=count, task_experts=1) for count in (2, 8, 32)},
    "levels": {count: replace(BASE, levels=count) for count in (1, 2, 4, 6)},
    "A": {CASES["A"].tasks: CASES["A"]},
    "large": {30: replace(BASE, tasks=30, task_experts=2, shared_experts=4, levels=4)},
}
TITLES = ("parameters", "build s", "first s", "step ms", "peak MB")


def measure(name: str, case: Case, steps: int) -> list[str]:
    """Return the cells of TITLES for a variant."""
    build(name, TINY).train()
    before, start = peak_megabytes(), time.perf_counter()
    variant = build(name, case)
    times = [time.perf_counter()]
    for _ in range(steps + 1):
        variant.train()
        times.append(time.perf_counter())
    first, *others = (end - begin for begin, end in pairwise(times))
    return [
        f"{variant.parameters:,}",
        f"{times[0] - start:.1f}",
        f"{first:.1f}",
        f"{median_ms(others):.1f}",
        f"{peak_megabytes() - before:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the selected curves and print a table for each."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--curve", choices=CURVES, nargs="+", default=[*CURVES], help="default: all")
    add("--variants", choices=[*NETWORKS, *PEERS], nargs="+", default=["ours", "floor"])
    add("--steps", type=int, default=10, help="steps after the first one, default 10")
    add("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        name, sizes, steps = json.loads(args.measure)
        case = Case(**{**sizes, "experts": tuple(sizes["experts"])})
        print(json.dumps(measure(name, case, steps)))
        return
    for curve in args.curve:
        rows = [(curve, "variant", "multiply-adds", *TITLES)]
        for value, case in CURVES[curve].items():
            for name in args.variants:
                cells = run_in_new_process("scaling", [name, asdict(case), args.steps])
                rows.append((str(value), name, f"{case.expert_multiply_adds:,}", *cells))
        print(f"\n{align_columns(rows)}", flush=True)


if __name__ == "__main__":
    main()
