"""Measure how time and memory grow with the number of experts, tasks and levels.

    python examples/benchmarks/speed/scaling.py --backend jax --plot scaling.png
    python examples/benchmarks/speed/scaling.py --backend torch --curve tasks --variants ours loop

Each of three curves varies one size:

    experts   2 tasks, 4 to 128 experts per level, a quarter for each task and half shared
    tasks     2 to 32 tasks with 1 expert each and 2 shared experts
    levels    1 to 6 levels of 4 tasks, 2 + 2 experts

In addition, one large block is measured, with 30 tasks, 64 experts per level and 4 levels. All have
experts [64, 32], 32 features and a batch of 512.

Every line is measured in a new process (`_fresh.py`). The columns are the seconds for building the
model and for the first training step, which traces and compiles; the median of the following steps;
and the peak memory. The floor (`_models.py`) has the same multiply-adds but no experts and gates:
its time grows with the multiply-adds only.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

from _cases import Case
from _command_line import select_backend, speed_parser
from _fresh import Fresh, measure_fresh
from _options import at_least
from _tables import align_columns
from _timing import median_ms

BASE = Case(tasks=4, experts=(64, 32), levels=2, features=32, batch=512)
CURVES = {
    "experts": {
        count: replace(BASE, tasks=2, task_experts=count // 4, shared_experts=count // 2)
        for count in (4, 16, 64, 128)
    },
    "tasks": {count: replace(BASE, tasks=count, task_experts=1) for count in (2, 8, 32)},
    "levels": {count: replace(BASE, levels=count) for count in (1, 2, 4, 6)},
}
LARGE = replace(BASE, tasks=30, task_experts=2, shared_experts=4, levels=4)
VARIANTS = ("ours", "floor", "loop")
TITLES = ("variant", "multiply-adds", "parameters", "build s", "first s", "step ms", "peak MB")


@dataclass(frozen=True)
class Point:
    """Point of a curve.

    Attributes:
        curve: The size that varies, or "large" for the large block.
        value: The value of this size.
        variant: The measured variant.
        case: All sizes.
        fresh: The measurements.
    """

    curve: str
    value: int
    variant: str
    case: Case
    fresh: Fresh


def measure_curve(
    curve: str, cases: dict[int, Case], variants: Sequence[str], steps: int, xla: bool
) -> list[Point]:
    """Measure every variant at every point and print the progress."""
    points = []
    for value, case in cases.items():
        for variant in variants:
            print(f"{curve}: {value}, {variant} ...", flush=True)
            fresh = measure_fresh(variant, case, steps, xla)
            points.append(Point(curve, value, variant, case, fresh))
    return points


def format_curve(points: Sequence[Point]) -> str:
    """Return a table with a line per point."""
    lines = [(points[0].curve, *TITLES)]
    lines += [
        (
            str(point.value),
            point.variant,
            f"{point.case.expert_multiply_adds:,}",
            f"{point.fresh.parameters:,}",
            f"{point.fresh.build_seconds:.1f}",
            f"{point.fresh.first_seconds:.1f}",
            f"{median_ms(point.fresh.step_seconds):.1f}",
            f"{point.fresh.peak_megabytes:.0f}",
        )
        for point in points
    ]
    return align_columns(lines)


def write_json(path: Path, points: Sequence[Point]) -> None:
    """Write all points with their cases."""
    path.write_text(json.dumps([asdict(point) for point in points], indent=2) + "\n")


def draw(path: Path, points: Sequence[Point]) -> None:
    """Plot step time and peak memory against multiply-adds, with a column per curve."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = list(dict.fromkeys(point.curve for point in points))
    size = {"figsize": (4 * len(curves), 6), "squeeze": False}
    figure, panels = plt.subplots(2, len(curves), sharex="col", sharey="row", **size)
    for column, curve in zip(panels.T, curves):
        for variant in dict.fromkeys(point.variant for point in points):
            line = [point for point in points if (point.curve, point.variant) == (curve, variant)]
            x = [point.case.expert_multiply_adds / 1e6 for point in line]
            times = [median_ms(point.fresh.step_seconds) for point in line]
            column[0].loglog(x, times, "o-", label=variant)
            column[1].loglog(x, [point.fresh.peak_megabytes for point in line], "o-")
        column[0].set_title(f"{curve}: {line[0].value} to {line[-1].value}")
        column[1].set_xlabel("multiply-adds per example, in millions")
        for panel in column:
            panel.set_xticks(x, [f"{millions:.2f}" for millions in x])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("training step, ms")
    panels[1, 0].set_ylabel("peak memory, MB")
    panels[0, 0].legend()
    figure.suptitle(f"Keras on {points[0].fresh.backend}")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the selected curves and print a table for each."""
    parser = speed_parser(__doc__)
    add = parser.add_argument
    add("--curve", choices=[*CURVES, "large"], nargs="+", default=[*CURVES, "large"])
    add("--variants", choices=VARIANTS, nargs="+", default=["ours", "floor"])
    add("--steps", type=at_least(1), default=10, help="steps after the first one, default 10")
    args = parser.parse_args(arguments)
    select_backend(args)
    points = []
    for curve in args.curve:
        is_curve = curve in CURVES
        cases = CURVES[curve] if is_curve else {LARGE.tasks: LARGE}
        variants = args.variants if is_curve else ["ours"]
        measured = measure_curve(curve, cases, variants, args.steps, args.xla)
        points += measured
        about = f"on {measured[0].fresh.backend}" if is_curve else str(LARGE)
        print(f"\n{curve}: {about}\n{format_curve(measured)}\n", flush=True)
    if args.json:
        write_json(args.json, points)
    on_curves = [point for point in points if point.curve in CURVES]
    if args.plot and on_curves:
        draw(args.plot, on_curves)


if __name__ == "__main__":
    main()
