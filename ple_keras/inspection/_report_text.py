"""A gate report as text for a terminal."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ple_keras.inspection.level_use import ExpertUse, GateUse

WIDTH = 100
MAX_ITEMS = 16  # in a list
Row = Sequence[str]


def format_report(report: Any) -> str:
    """Return the tables of every level of a GateReport, and its warnings."""
    blocks = [f"Gates and experts over {report.examples:,} examples"]
    for level, use in report.levels.items():
        title = f"{level} (isolated: the shared gate does not train task experts)"
        title = title if use.isolated else level
        lines = [title, *_table(_gate_rows(use.gates)), *_table(_expert_rows(use.experts))]
        if any(use.conflict.values()):
            lines += _table(_conflict_rows(use.conflict))
        blocks.append("\n".join(lines))
    if report.warnings:
        wrap = textwrap.TextWrapper(WIDTH, initial_indent="  ", subsequent_indent="    ")
        blocks.append("\n".join(["Warnings", *map(wrap.fill, report.warnings)]))
    return "\n\n".join(blocks)


def _gate_rows(gates: Mapping[str, GateUse]) -> Iterator[Row]:
    yield "gate", "entropy", "largest weight", "over 0.95", "mean weight ± standard deviation"
    for gate, use in gates.items():
        weights = (
            f"{expert} {use.mean[expert]:.2f} ± {use.spread[expert]:.2f}" for expert in use.mean
        )
        entropy = f"{use.entropy:.2f}" if len(use.mean) > 1 else "-"
        yield gate, entropy, f"{use.max:.2f}", percent(use.over_95), _join(weights)


def _expert_rows(experts: Mapping[str, ExpertUse]) -> Iterator[Row]:
    yield "expert", "dead units", "mean weight by gate (share of the tasks' weight)"
    for expert, use in experts.items():
        shares = {task: f" ({percent(share)})" for task, share in use.share.items()}
        weights = (f"{gate} {w:.2f}{shares.get(gate, '')}" for gate, w in use.weight.items())
        yield expert, percent(use.dead_units), _join(weights)


def _conflict_rows(conflict: dict[str, dict[tuple[str, str], float]]) -> Iterator[Row]:
    yield "gradients of", "cosine between tasks"
    for place, cosines in conflict.items():
        if len(cosines) > MAX_ITEMS:  # the strongest conflicts first, since the list is cut
            cosines = dict(sorted(cosines.items(), key=lambda item: item[1]))
        yield place, _join(f"{a} and {b} {_cosine(c)}" for (a, b), c in cosines.items())


def _cosine(cosine: float) -> str:
    return "undefined" if math.isnan(cosine) else f"{cosine:+.2f}"


def _join(items: Iterable[str]) -> str:
    """Return the first MAX_ITEMS items and the number of the others."""
    first, rest = (items := list(items))[:MAX_ITEMS], items[MAX_ITEMS:]
    return ", ".join([*first, f"and {len(rest)} more"] if rest else first)


def percent(share: float) -> str:
    """Return a share as text, in tables and warnings alike."""
    return f"{100 * share:.0f} %"


def _table(rows: Iterable[Row]) -> list[str]:
    """Return lines with the first column left-aligned, the last wrapped, others right-aligned."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows))]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(middle, widths[1:]))]
        start = "  " + "".join(f"{cell}  " for cell in cells)
        room = max(WIDTH - len(start), WIDTH // 3)
        wrapped = _wrap(last, room)
        lines += [start + wrapped[0], *(" " * len(start) + line for line in wrapped[1:])]
    return [line.rstrip() for line in lines]


def _wrap(text: str, width: int) -> list[str]:
    """Wrap a text after commas."""
    lines = [""]
    for item in text.split(", "):
        joined = f"{lines[-1]}, {item}" if lines[-1] else item
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines[-1] += ","
            lines.append(item)
    return lines
