"""The text of reports: tables, lists of warnings, and dicts for JSON."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 100  # in letters
MAX_ITEMS = 16  # in a list
HARD_SPACE = "\N{NO-BREAK SPACE}"
Row = Sequence[str]


def warning_block(warnings: Iterable[str]) -> str:
    """Return the warnings of a report under a heading."""
    wrap = textwrap.TextWrapper(WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(["Warnings", *map(wrap.fill, warnings)])


def join_items(items: Iterable[str]) -> str:
    """Return the first MAX_ITEMS items and the number of the others."""
    first, rest = (items := list(items))[:MAX_ITEMS], items[MAX_ITEMS:]
    return ", ".join([*first, f"and {len(rest)} more"] if rest else first)


def percent(share: float) -> str:
    """Return a share as text, in tables and warnings alike."""
    return f"{100 * share:.0f} %"


def table_lines(rows: Iterable[Row]) -> list[str]:
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
    unbroken = text.replace(" ", HARD_SPACE).replace(f",{HARD_SPACE}", ", ")
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return [line.replace(HARD_SPACE, " ") for line in wrapper.wrap(unbroken)] or [""]


def to_json(value: object) -> Any:
    """Return nested dicts with strings as keys, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {
            ", ".join(key) if isinstance(key, tuple) else key: to_json(item)
            for key, item in value.items()
        }
    return None if isinstance(value, float) and not math.isfinite(value) else value
